"""Files of torch: what damage to them, and other objects in them, gives."""

import io
import zipfile

import pytest
import torch
from torch import nn

from vilta.torch_file import load_torch_file


def with_pickle(data: bytes, change) -> bytes:
    """The same file with its pickle changed; its frame, a zip, stays valid."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return changed.getvalue()


def test_every_cut_of_the_pickle_is_an_error_in_one_line(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"a": torch.arange(3), "name": {"big": 2**70, "on": (True, None, 2.5)}}, path)
    whole = path.read_bytes()
    assert load_torch_file(path)["name"]["big"] == 2**70
    lengths = []
    path.write_bytes(with_pickle(whole, lambda content: lengths.append(len(content)) or content))
    assert load_torch_file(path)["a"].tolist() == [0, 1, 2]
    for cut in range(lengths[0]):
        path.write_bytes(with_pickle(whole, lambda content: content[:cut]))  # noqa: B023
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            load_torch_file(path)


def test_other_objects_and_what_cannot_be_opened_are_errors_in_one_line(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "empty.pt").touch()
    for name in ("module.pt", "folder.pt", "empty.pt", "missing.pt"):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            load_torch_file(tmp_path / name)
