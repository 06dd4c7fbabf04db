"""What a command refuses before it has loaded anything large, in a line."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vilta.commands import ablate, convert, evaluate, export, finetune, report, serve
from vilta.config import RunConfig
from vilta.config.ablate import AblateConfig
from vilta.config.apps import ServeConfig
from vilta.config.finetune import FinetuneConfig
from vilta.config.tools import ConvertConfig, EvaluateConfig, ExportConfig, ReportConfig


def refused(problem, run, *arguments):
    with pytest.raises(ValueError, match=problem) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


def test_convert_and_where_it_writes(tmp_path):
    refused("--out must name the folder", convert.run, "meter.ckpt", ConvertConfig())
    refused("choose another --out", convert.run, "meter.ckpt", ConvertConfig(out=str(tmp_path)))
    new = ConvertConfig(out=str(tmp_path / "new"))
    refused("is a folder; name the checkpoint file", convert.run, str(tmp_path), new)
    (tmp_path / "file").touch()
    # Not that there is no checkpoint: reading a large one comes after.
    with pytest.raises(OSError, match=r"choose another place to write: .*file/new"):
        convert.run("meter.ckpt", ConvertConfig(out=str(tmp_path / "file" / "new")))


def test_export_and_what_it_writes(tmp_path, monkeypatch):
    released = SimpleNamespace(model=None, tokenizer=None)
    monkeypatch.setattr(export, "load_released", lambda source: released)
    monkeypatch.setattr(export, "model_folder", Path)
    refused("--onnx is the only format", export.run, "runs/x", ExportConfig(onnx=False))
    refused("x is not a run; --out must name", export.run, "runs/x", ExportConfig())
    refused("is not an export", export.run, "runs/x", ExportConfig(out=str(tmp_path)))


def test_an_export_that_differs_from_torch(tmp_path, monkeypatch):
    model = SimpleNamespace(float=lambda: SimpleNamespace(eval=lambda: None))
    released = SimpleNamespace(model=model, tokenizer=None)
    monkeypatch.setattr(export, "load_released", lambda source: released)
    monkeypatch.setattr(export, "model_folder", Path)
    monkeypatch.setattr(export, "export_onnx", lambda *arguments, **options: None)
    monkeypatch.setattr(export, "largest_difference", lambda *arguments: 0.5)
    config = ExportConfig(out=str(tmp_path / "onnx"))
    refused("differs from torch by 5.0e-01", export.run, "runs/x", config)


@pytest.mark.parametrize("task", ["retrieval", "fine-grained", "masked-words"])
def test_a_submission_of_a_task_that_has_none(task):
    config = EvaluateConfig(task=task, data="DATA", submission="answers.json")
    # Not that there is no such run, or no such data: both are looked for after it.
    refused(f"{task} has no submission format; leave --submission out", evaluate.run, "x", config)


def test_what_only_tasks_heed():
    for flag in ({"submission": "answers.json"}, {"images": "photos"}, {"folds": 5}):
        problem = f"x is measured as pre-training, without --{next(iter(flag))}; name a --task"
        config = EvaluateConfig(task="pretraining", data="DATA", **flag)
        refused(problem, evaluate.run, "x", config)
    config = EvaluateConfig(task="fine-grained", data="DATA", folds=5)
    refused("fine-grained is not averaged over parts; leave --folds out", evaluate.run, "x", config)


def test_fine_tuning_without_a_task():
    refused("mine.yaml names no task", finetune.run, "mine.yaml", FinetuneConfig(task=""))


def test_what_to_start_from_is_looked_for_before_the_items(tmp_path):
    config = FinetuneConfig(run=RunConfig(out=str(tmp_path / "run")))
    refused("--from must name", finetune.run, "vqa", config)
    missing = replace(config, start=str(tmp_path))
    refused("neither a run nor a released model", finetune.run, "vqa", missing)


def test_a_run_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    below = FinetuneConfig(run=RunConfig(out=str(tmp_path / "file" / "new" / "run")))
    refused("file is a file; choose another --run.out", finetune.run, "vqa", below)
    closed = FinetuneConfig(run=RunConfig(out=str(tmp_path / "new" / "run")))
    monkeypatch.setattr("os.access", lambda place, mode: False)
    refused(f"{tmp_path} cannot be written into", finetune.run, "vqa", closed)


def test_a_task_that_is_only_measured(tmp_path):
    config = FinetuneConfig(run=RunConfig(out=str(tmp_path)))
    refused("measured, not trained", finetune.run, "masked-words", config)


def test_a_comparison_without_a_folder_or_a_plan(tmp_path):
    refused("--out must name the folder of the comparison", ablate.run, AblateConfig(out=""))
    fresh = AblateConfig(out=str(tmp_path))
    refused("has no plan yet", ablate.do_part, replace(fresh, part="train meter/seed-0"))
    refused("has no plan yet", ablate.write_report, fresh)


def test_a_comparison_in_a_folder_of_other_things(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").touch()
    monkeypatch.setattr(ablate, "arm_settings", lambda *_: None)
    refused("is not empty and is not a comparison", ablate.run, AblateConfig(out=str(tmp_path)))
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_a_report_that_is_no_page():
    refused("must name an HTML file", report.run, "runs/x", ReportConfig(out="report.pdf"))


def test_serving_without_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused(r"pip install 'vilta\[serve\]'", serve.run, "runs/x", ServeConfig())


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        problem = f"cannot listen on 127.0.0.1 port {port}: .*; --port 0 takes a free one"
        refused(problem, serve._bound, "127.0.0.1", port)
        # Before the model is loaded and the photos are indexed: there is no such run.
        refused(problem, serve.run, "runs/x", ServeConfig(port=port))


def test_a_port_that_is_taken_while_the_photos_are_indexed():
    first = serve._bound("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = serve._bound("127.0.0.1", port)  # neither listens yet
    first.listen()
    problem = f"cannot listen on 127.0.0.1 port {port}: "
    with pytest.raises(ValueError, match=problem), serve._listening_told("127.0.0.1", port):
        second.listen()
    first.close()
    second.close()


def test_an_address_of_another_machine():
    refused("--host must be an address of this machine", serve._bound, "192.0.2.1", 0)
