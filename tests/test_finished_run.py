"""Where an evaluation's metrics go, and where the paths of a record lie."""

import json
from pathlib import Path

import pytest

from vilta.config import PretrainConfig, PretrainTextConfig
from vilta.config.finetune import FinetuneConfig
from vilta.config.yaml_file import save_yaml
from vilta.finished_run import load_run, recorded_path, result_path, same_place, task_of
from vilta.report.record import read_record
from vilta.training.folder import model_folder


def keep(folder, data):
    path = result_path(str(folder), "evaluation", data)
    path.write_text(json.dumps({"data": data}))
    return path


def test_paths_of_a_record_are_found_from_another_folder(tmp_path, monkeypatch):
    text = tmp_path / "project" / "runs" / "text" / "model"
    run = tmp_path / "project" / "runs" / "mine"
    text.mkdir(parents=True)
    run.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert recorded_path("runs/text/model", run) == str(text)
    assert recorded_path("owner/name", run) == "owner/name"
    assert [recorded_path(path, run) for path in ("", ".", "..")] == ["", ".", ".."]
    assert recorded_path("runs/text?split=val+scenes:9", run) == f"{text.parent}?split=val+scenes:9"
    (elsewhere / "runs" / "text" / "model").mkdir(parents=True)
    assert recorded_path("runs/text/model", run) == str(text), "another one of the same name"
    assert same_place("runs/text", str(text.parent), run)
    assert not same_place("runs/text?split=a", "runs/text?split=b", run)
    (text.parent.parent / "c++" / "a+b").mkdir(parents=True)
    found = f"{text.parent.parent}/c++/a+b?split=v+{text.parent}"
    assert recorded_path("runs/c++/a+b?split=v+runs/text", run) == found
    assert not same_place({"runs": "text"}, "runs/text", run)
    monkeypatch.chdir(tmp_path / "project")
    assert recorded_path("runs/text/model", Path("runs/mine")) == "runs/text/model"


def test_the_name_tells_the_data(tmp_path):
    assert keep(tmp_path, "data/val").name == "evaluation-val.json"
    assert keep(tmp_path, "scenes:9?seed=1&size=32").name.endswith("-scenes-9-seed-1-size-32.json")
    assert result_path("runs", "memes:Memes", "test.csv").name == "memes-Memes-test.json"


def test_other_data_never_overwrite_metrics(tmp_path):
    every = ["a/val", "b/val", "c/val.csv", "scenes:9?seed=1", "scenes:9?seed=2", "scenes:9"]
    kept = [keep(tmp_path, data) for data in every]
    assert len(set(kept)) == len(every)
    assert [keep(tmp_path, data) for data in every] == kept, "the same data, the same file"


def test_a_file_that_is_no_evaluation_does_not_matter(tmp_path):
    data = [json.dumps({"data": text}) for text in ("x" * 100_000, "a\0b", "a\0b?split=c")]
    for content in ("", "[1]", '{"run": "x"}', "[" * 100_000):
        (tmp_path / "evaluation-val.json").write_text(content)
        assert result_path(str(tmp_path), "evaluation", "a/val").name == "evaluation-val.json"
    for content in data:  # other data, whatever they were: not overwritten
        (tmp_path / "evaluation-val.json").write_text(content)
        assert result_path(str(tmp_path), "evaluation", "a/val").name != "evaluation-val.json"


def test_a_file_on_data_without_a_name_is_not_overwritten(tmp_path):
    (tmp_path / "evaluation-val.json").write_text('{"data": {"val": 1}}')
    assert result_path(str(tmp_path), "evaluation", "a/val").name != "evaluation-val.json"


def test_folders_that_are_no_finished_pre_training(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.yaml that names its task; add --task"):
        task_of(str(tmp_path))
    with pytest.raises(ValueError, match=r"is not a run: it has no config\.yaml"):
        load_run(str(tmp_path))
    (tmp_path / "config.yaml").write_text("task: vqa\nstart: runs/x\n")
    with pytest.raises(ValueError, match=r"was fine-tuned for a task; use: vilta evaluate"):
        load_run(str(tmp_path))
    (tmp_path / "config.yaml").write_text("optimization: {steps: 3}\n")
    assert task_of(str(tmp_path)) == "pretraining"
    with pytest.raises(ValueError, match=r"no released model yet; finish it with vilta pretrain"):
        load_run(str(tmp_path))


def test_a_text_encoder_is_told_to_be_one(tmp_path):
    """Not by the first of its settings that a pre-training has not."""
    save_yaml(PretrainTextConfig(), tmp_path / "config.yaml")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"kind 'bert'; name a pre-training run, which takes a t"):
        load_run(str(tmp_path))


@pytest.mark.parametrize("verb", ["pretrain", "pretrain-text", "finetune"])
def test_a_run_that_has_not_ended_is_finished_by_the_command_that_began_it(tmp_path, verb):
    kinds = {
        "pretrain": PretrainConfig(),
        "pretrain-text": PretrainTextConfig(),
        "finetune": FinetuneConfig(task="vqa", start="runs/x"),
    }
    run = tmp_path / "my run"
    run.mkdir()
    save_yaml(kinds[verb], run / "config.yaml")
    with pytest.raises(ValueError, match=f"with vilta {verb} '{run}/config.yaml' --run.resume$"):
        model_folder(str(run))


def test_calls_in_messages_can_be_pasted(tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    (run / "config.yaml").write_text("data: {train: x}\n")
    with pytest.raises(ValueError, match=f"vilta pretrain '{run}/config.yaml' --run.resume"):
        load_run(str(run))
    with pytest.raises(ValueError, match=f"vilta evaluate '{run}' --data DATA"):
        read_record(str(run))
    (run / "config.yaml").write_text("task: vqa\n")
    with pytest.raises(ValueError, match=f"vilta evaluate '{run}' --data DATA"):
        load_run(str(run))
