"""What every test runs under: checked shapes, one thread, no network, fixed seeds."""

import os
import pkgutil
import random
import signal
from importlib.util import find_spec

import hypothesis
import pytest
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# On a CPU alone, unless a GPU is named: VILTA_TEST_GPU=0 pytest -k gpu
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("VILTA_TEST_GPU", "")
os.environ["MPLBACKEND"] = "agg"

# A process that was started in the background inherits that it ignores these; the tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before vilta is first imported: from here on, every call checks the types and shapes it states.
# Not on a GPU: transformers annotates tensors as torch.FloatTensor, which those of a GPU are not.
# Scenes make small calls by the thousand and state few shapes: jaxtyping's wrapper, which compares
# the shapes of a call with each other, would take ten times as long as they do themselves.
if not os.environ["CUDA_VISIBLE_DEVICES"]:
    parts = pkgutil.iter_modules(find_spec("vilta").submodule_search_locations)
    shaped = {f"vilta.{part.name}" for part in parts} - {"vilta.scenes"}
    install_import_hook([*shaped, "vilta.scenes.drawing"], "beartype.beartype")
    beartype_package("vilta.scenes")

import torch  # noqa: E402

torch.set_num_threads(1)

# The machine that runs this may be busy, so examples have no deadline; they are the same each run.
hypothesis.settings.register_profile("vilta", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("vilta")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    torch.manual_seed(0)
