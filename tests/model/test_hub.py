"""``push_to_hub`` without a hub: what is uploaded is the released folder, with its model card."""

from pathlib import Path

import pytest
from huggingface_hub import CommitInfo, HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import EntryNotFoundError
from small_run import write_run
from transformers import AutoModelForPreTraining, AutoProcessor

ADDRESS = "https://huggingface.co/me/photos"


@pytest.fixture
def uploaded(tmp_path, monkeypatch):
    """A folder that takes the place of the repository ``me/photos``."""
    hub = tmp_path / "hub"
    hub.mkdir()

    def create_commit(self, repo_id, operations, *, commit_message, **options):
        assert repo_id == "me/photos" and options["token"] == "secret"
        for each in operations:
            with each.as_file() as file:
                (hub / each.path_in_repo).write_bytes(file.read())
        return CommitInfo(
            commit_url=f"{ADDRESS}/commit/1",
            commit_message=commit_message,
            commit_description="",
            oid="1",
        )

    def load(*_, **__):
        if not (hub / "README.md").is_file():
            raise EntryNotFoundError("no card yet")
        return ModelCard((hub / "README.md").read_text())

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: RepoUrl(ADDRESS))
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(ModelCard, "load", load)
    return hub


def test_a_released_folder_arrives_whole(uploaded, tmp_path):
    folder = write_run(tmp_path / "run") / "model"
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    AutoModelForPreTraining.from_pretrained(folder).push_to_hub("photos", token="secret")
    AutoProcessor.from_pretrained(folder).push_to_hub("photos", token="secret")
    assert names(uploaded) == names(folder)
    for name in ("model.safetensors", "README.md"):
        assert (uploaded / name).read_bytes() == (folder / name).read_bytes()
    assert AutoModelForPreTraining.from_pretrained(uploaded).config.image_size == 32


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
