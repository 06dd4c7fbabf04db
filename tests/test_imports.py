"""Modules import without the packages that we do without, and no later than they are needed."""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
)

WALK = """
import importlib, sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torchvision", "timm"):
            return self.finder.find_spec(name, path, target)

# Even where they are installed, no finder finds them.
sys.meta_path = [Without(finder) for finder in sys.meta_path]
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name)
"""

AUTO = """
config = AutoConfig.for_model("vilta")
print(type(config).__name__, AutoModel._model_mapping[type(config)].__name__)
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )


def test_every_module_imports_without_torchvision_and_timm():
    done = python(WALK, *MODULES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == MODULES
    assert len(MODULES) > 20


@pytest.mark.parametrize(
    "imports",
    [
        "import importlib.util, vilta\n"
        "importlib.util.find_spec('transformers')\n"  # how libraries ask whether it is installed
        "from transformers import AutoConfig, AutoModel",
        "from transformers import AutoConfig, AutoModel\nimport vilta",
    ],
    ids=["vilta first", "transformers first"],
)
def test_auto_classes_know_the_model_after_import_vilta(imports):
    done = python(imports + AUTO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ViltaConfig", "ViltaModel"]


LOADED = """
import sys, vilta
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    pipeline,
)

folder = sys.argv[1]
for auto in (
    AutoModel, AutoModelForPreTraining, AutoModelForZeroShotImageClassification, AutoProcessor
):
    print(type(auto.from_pretrained(folder)).__name__)
print(type(AutoModelForVisualQuestionAnswering.from_pretrained(folder, num_labels=3)).__name__)
classify = pipeline("zero-shot-image-classification", folder)
print(len(classify(Image.new("RGB", (40, 40)), candidate_labels=["red ball", "blue cube"])))
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    sys.path.insert(0, str(Path(__file__).parent / "model"))
    from tiny_models import known_tokenizer, tiny_vilta

    from vilta.model import ViltaProcessor

    folder = tmp_path_factory.mktemp("released")
    model = tiny_vilta()
    model.save_pretrained(folder)
    tokenizer = known_tokenizer(["red", "ball", "blue", "cube"])
    ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    return str(folder)


def test_auto_classes_load_a_released_folder_in_a_fresh_process(released):
    done = python(LOADED, released)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "ViltaModel",
        "ViltaForPreTraining",
        "ViltaForZeroShotImageClassification",
        "ViltaProcessor",
        "ViltaForVisualQuestionAnswering",
        "2",
    ]


def test_import_vilta_is_light_and_its_names_are_there():
    done = python(
        "import sys, vilta, vilta.config.yaml_file\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "from vilta import ViltaForPreTraining\n"
        "from transformers import AutoModelForPreTraining as Auto\n"
        "assert Auto._model_mapping[vilta.ViltaConfig] is ViltaForPreTraining\n"
        "assert set(vilta.__all__) <= set(dir(vilta)), dir(vilta)\n"
        "assert all(getattr(vilta, name).__name__ == name for name in vilta.__all__)\n"
        "assert not hasattr(vilta, 'Nothing')\n"
        "assert vilta.__version__[0].isdigit()\n"
    )
    assert done.returncode == 0, done.stderr


CALLED = """
import sys
from vilta.cli import run

run(sys.argv[1:])
"""
VERBS_WITHOUT = """
import importlib
from vilta.verbs import VERBS

for name in ("search", "proofread", "serve"):
    importlib.import_module(VERBS[name].recipe)
assert "torch" in sys.modules
assert not {"datasets", "pandas", "pyarrow", "matplotlib"} & set(sys.modules)
"""


def test_verbs_that_read_no_data_set_do_without_its_libraries(released, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    done = python(CALLED + VERBS_WITHOUT, "match", released, str(photo), "red ball")
    assert done.returncode == 0, done.stderr
    assert "red ball" in done.stdout


def test_packing_does_without_transformers(tmp_path):
    without = "assert {'datasets'} == {'datasets', 'transformers', 'matplotlib'} & set(sys.modules)"
    done = python(CALLED + without, "pack", "scenes:2?seed=0&size=32", "--out", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
