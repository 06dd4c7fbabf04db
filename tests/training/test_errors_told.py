"""Errors of the disk and of the first process, as the user and the other processes are told."""

import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from accelerate import Accelerator

from vilta.locking import only_writer
from vilta.training import processes
from vilta.training.folder import replace_text
from vilta.training.session import Session


def test_a_model_that_cannot_be_written(tmp_path):
    def fails(folder):
        raise OSError(28, "No space left on device")

    session = SimpleNamespace(task=SimpleNamespace(save_pretrained=fails))
    with pytest.raises(ValueError, match=r"cannot write .*model: .*No space left") as error:
        Session._write_model(session, tmp_path / "model")
    assert "--run.resume" in str(error.value) and not (tmp_path / "model").exists()


@pytest.mark.parametrize("main", [True, False])
def test_all_processes_are_told_the_error_of_the_first(monkeypatch, main):
    def fails():
        assert main, "only the first process works"
        raise OSError("the disk is gone")

    def broadcast(outcome):
        if not main:
            outcome[:] = [None, "the disk is gone"]

    monkeypatch.setattr(processes, "broadcast_object_list", broadcast)
    accelerator = Mock(spec=Accelerator, num_processes=2, is_main_process=main)
    with pytest.raises(ValueError, match="the disk is gone"):
        processes.on_main(accelerator, fails)


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    """The system names no file when it is the content that finds no space."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        replace_text(tmp_path / "config.yaml", "x")
    assert error.value.filename == str(tmp_path / "config.yaml") and not any(tmp_path.iterdir())
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError) as error, only_writer(tmp_path / ".lock", tmp_path):
        pass
    assert error.value.filename == str(tmp_path)
