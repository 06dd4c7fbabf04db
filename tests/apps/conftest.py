"""A tiny random run and a folder of noisy photos; ``tiny_models`` becomes importable."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "model")]

from small_run import noise, write_run  # noqa: E402

from vilta.model import ViltaForImageTextRetrieval  # noqa: E402


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def retrieval_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "retrieval", ViltaForImageTextRetrieval)


@pytest.fixture
def photo_folder(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index in range(5):
        noise(index).save(folder / f"photo {index}.png")
    noise(9).save(folder / "more" / "Ünïcode ✓.PNG")
    return folder
