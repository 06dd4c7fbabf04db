import json

import pytest
import torch
from task_case import loader_of, make_task, write_images, write_lines
from torch.nn import functional as F

from vilta.config.finetune import TaskSettings
from vilta.tasks.nlvr2 import VisualReasoning as Task

SENTENCE = "both left and right picture shows dogs"


def write_official(folder):
    """Lines as in dev.json, field for field; one sentence about two pairs, another about one."""
    items = [
        {
            "sentence": SENTENCE,
            "left_url": "http://x/1.jpg",
            "right_url": "http://x/2.jpg",
            "label": label,
            "identifier": name,
            "writer": "7",
            "validation": {"1": label},
            "extra_validations": {},
            "synset": "dog",
            "query": "two dogs",
        }
        for name, label in {
            "dev-850-0-0": "True",
            "dev-850-1-0": "False",
            "dev-850-0-1": "False",
        }.items()
    ]
    for pair in ("dev-850-0", "dev-850-1"):
        write_images(folder / "dev", f"{pair}-img0.png", f"{pair}-img1.png")
    return write_lines(folder / "dev.json", items)


def test_the_published_layout(tmp_path):
    items = Task.read(write_official(tmp_path), "", TaskSettings())
    assert items.rows[1]["images"] == ["dev-850-1-img0.png", "dev-850-1-img1.png"]
    assert list(items.rows["label"]) == ["True", "False", "False"]
    assert items.rows[0]["texts"] == [SENTENCE]


def test_loss_and_figures_by_hand(tmp_path):
    items = Task.read(write_official(tmp_path), "", TaskSettings())
    task = make_task(Task, items, tmp_path / "model")
    (batch,) = loader_of(task, items, batch_size=3)
    assert batch.pixel_values.shape[0] == 4  # the pair of two statements stands once
    logits = task.logits(batch)
    expected = F.cross_entropy(logits, torch.tensor([1, 0, 0]))  # False is 0
    assert torch.allclose(task(batch).total, expected)
    loader = loader_of(task, items)
    task.predict = lambda loader: ["True", "True", "False"]
    metrics = task.evaluate(task.predict(loader), items)
    assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert metrics["consistency"] == 50.0  # sentence 0 is wrong for one of its pairs
    lines = task.submission(task.predict(loader), items).splitlines()
    assert lines == ["dev-850-0-0,True", "dev-850-1-0,True", "dev-850-0-1,False"]


def test_a_hidden_test_set_is_answered_but_not_measured(tmp_path):
    path = write_official(tmp_path)
    task = make_task(Task, Task.read(path, "", TaskSettings()), tmp_path / "model")
    lines = [json.loads(line) for line in (tmp_path / "dev.json").read_text().splitlines()]
    for line in lines[1:]:
        del line["label"]
    secret = Task.read(write_lines(tmp_path / "dev.json", lines), "", TaskSettings())
    task.check(secret)
    loader = loader_of(task, secret)
    submission = task.submission(task.predict(loader), secret)
    answers = [line.split(",") for line in submission.splitlines()]
    assert [name for name, _ in answers] == ["dev-850-0-0", "dev-850-1-0", "dev-850-0-1"]
    assert {answer for _, answer in answers} <= {"True", "False"}
    assert Task.unanswered(secret) == ["dev-850-1-0", "dev-850-0-1"]
    with pytest.raises(ValueError, match=r"2 of 3 items of .*first: dev-850-1-0; add the field"):
        task.evaluate(task.predict(loader), secret)
    (batch,) = loader_of(task, secret, batch_size=3)
    alone = F.cross_entropy(task.logits(batch)[:1], torch.tensor([1]))
    assert torch.allclose(task(batch).total, alone)  # nothing is learnt from the others


def test_a_broken_line_and_a_missing_field_are_named(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text('{"sentence": "x"}\n{"sentence"\n')
    with pytest.raises(ValueError, match="line 2: not a JSON object"):
        Task.read(str(path), "", TaskSettings())
    path.write_text('{"sentence": "x"}\n')
    with pytest.raises(ValueError, match="no field 'identifier'"):
        Task.read(str(path), "", TaskSettings())


def test_scenes_come_in_pairs():
    items = Task.read("scenes:10?seed=3&size=32", "", TaskSettings())
    assert all(len(set(images)) == 2 for images in items.rows["images"])
    assert set(items.rows["label"]) == {"True", "False"}
    assert len(set(items.rows["id"])) == len(items)
