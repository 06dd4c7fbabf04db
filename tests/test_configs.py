"""Every config that is shipped can be read, by the verb it is made for."""

import json
from pathlib import Path

import pytest

from vilta.ablation.arms import arm_settings
from vilta.config import PretrainConfig, PretrainTextConfig
from vilta.config.ablate import AblateConfig
from vilta.config.finetune import FinetuneConfig
from vilta.config.ranges import check_config
from vilta.config.shipped import FOLDER, find_shipped, shipped_names
from vilta.config.yaml_file import load_yaml, read_mapping, to_dict
from vilta.tasks.registry import find_task, load_finetune_config

ROOT = Path(__file__).parents[1]
YAMLS = sorted(path for folder in (FOLDER, ROOT / "benchmarks") for path in folder.rglob("*.yaml"))


def test_configs_are_shipped():
    assert {"demo.yaml", "demo-text.yaml"} <= {path.name for path in YAMLS}


@pytest.mark.parametrize(
    "path", [p for p in YAMLS if p.parent.name != "ablate"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_it_loads_and_differs_from_the_defaults(path):
    cls = PretrainTextConfig if path.stem.split("-")[-1] == "text" else PretrainConfig
    cls = AblateConfig if path.stem.startswith("ablate") else cls
    if "\ntask: " in path.read_text():
        assert to_dict(load_finetune_config(path)) != to_dict(FinetuneConfig())
    else:
        assert to_dict(load_yaml(path, cls)) != to_dict(cls())


@pytest.mark.parametrize(
    "path", [p for p in YAMLS if p.parent.name in ("finetune", "scenes")], ids=lambda p: p.stem
)
def test_it_names_the_task_it_is_called_after(path):
    task = load_finetune_config(path).task
    assert task == path.stem
    assert find_task(task).name == task


@pytest.mark.parametrize("arm", sorted(p.stem for p in (FOLDER / "ablate").glob("*.yaml")))
def test_an_arm_says_only_what_the_objectives_are(arm):
    config = AblateConfig(base="demo", arms=(arm,), baseline=arm)
    assert set(read_mapping(FOLDER / "ablate" / f"{arm}.yaml")) == {"objective"}
    assert arm_settings(config, arm).model == load_yaml(FOLDER / "demo.yaml", PretrainConfig).model


@pytest.mark.parametrize(
    "path", [p for p in YAMLS if p.stem.startswith("ablate")], ids=lambda p: p.stem
)
def test_every_arm_of_a_comparison_is_known(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_yaml(path, AblateConfig)
    check_config(config)
    for arm in config.arms:
        arm_settings(config, arm)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.json")), ids=lambda p: p.name)
def test_an_encoder_config_makes_an_encoder(path):
    from vilta.model.encoders import load_image_encoder

    expected = json.loads(path.read_text())["model_type"]
    assert load_image_encoder(str(path)).config.model_type == expected


def test_a_shipped_name_is_found_from_any_folder_and_a_local_file_comes_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert {"demo", "demo-text", "finetune/vqa", "scenes/vqa"} <= set(shipped_names())
    assert find_shipped("demo") == find_shipped("configs/demo.yaml") == str(FOLDER / "demo.yaml")
    assert find_shipped("demo-image", ".json") == str(FOLDER / "demo-image.json")
    for name in ("photos", "demo-image"):
        (tmp_path / name).mkdir()
    assert find_shipped("photos") == str(FOLDER / "photos.yaml"), "a folder is no file of settings"
    assert find_shipped("demo-image", ".json") == "demo-image", "but may be an encoder"
    for other in ("vqa", "../presets/demo", "openai/clip-vit-base-patch16", ""):
        assert find_shipped(other) == find_shipped(other, ".json") == other
    (tmp_path / "demo").write_text("run: {out: x}\n")
    assert find_shipped("demo") == "demo"
