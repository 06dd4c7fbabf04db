"""A tiny random run and a folder of noisy photos."""

import pytest
from small_run import noise, write_run

from vilta.model import ViltaForImageTextRetrieval


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
