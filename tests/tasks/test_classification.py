import csv

import pytest
import torch
from PIL import Image
from task_case import loader_of, make_task, write_images

from vilta.config.finetune import TaskSettings
from vilta.tasks.classification import Classification as Task


def write(folder, text):
    write_images(folder / "img", "1.png", "2.png", "3.png")
    (folder / "train.csv").write_text(text)
    return str(folder / "train.csv")


TABLE = 'image,text,label\nimg/1.png,a red ball,good\n2.png,"two dogs, no man",bad\n3.png,a,good\n'


def test_a_csv_of_image_text_and_label(tmp_path):
    items = Task.read(write(tmp_path, TABLE), "", TaskSettings())
    assert items.rows[1]["texts"] == ["two dogs, no man"]
    assert Task.labels(items, TaskSettings()) == ["bad", "good"]
    task = make_task(Task, items, tmp_path / "model")
    assert [int(task.target(row)) for row in items.rows] == [1, 0, 1]
    loader = loader_of(task, items)
    task.predict = lambda loader: ["good", "good", "good"]
    metrics = task.evaluate(task.predict(loader), items)
    assert metrics == {
        "accuracy": pytest.approx(200 / 3),
        "majority": pytest.approx(200 / 3),
        "accuracy/bad": 0.0,
        "accuracy/good": 100.0,
    }


def test_it_learns_what_only_the_image_tells(tmp_path):
    path = write(tmp_path, "image,text,label\n1.png,a,x\n3.png,a,y\n")
    for name, colour in {"1.png": "black", "3.png": "white"}.items():
        Image.new("RGB", (40, 40), colour).save(tmp_path / "img" / name)
    items = Task.read(path, "", TaskSettings())
    task = make_task(Task, items, tmp_path / "model").train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    loader = loader_of(task, items)
    (batch,) = loader
    for _ in range(60):
        optimizer.zero_grad()
        task(batch).total.backward()
        optimizer.step()
    assert task.eval().evaluate(task.predict(loader), items)["accuracy"] == 100.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,label\n1.png,a\n", "no column 'text'; it needs image,text,label"),
        ("", "is empty; its first line must be image,text,label"),
        ("image,text,label\n", "no items"),
        ("image,text,label\n9.png,a,x\n1.png,a,y\n", "1 of 2 images .*9.png"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, text, problem):
    with pytest.raises(ValueError, match=problem):
        Task.read(write(tmp_path, text), "", TaskSettings())


def test_without_labels_it_is_answered_but_not_learnt(tmp_path):
    items = Task.read(write(tmp_path, "image,text\n1.png,a\n2.png,b\n"), "", TaskSettings())
    assert Task.unanswered(items) == ["0", "1"]
    with pytest.raises(ValueError, match=r"2 of 2 items .* add the column label"):
        Task.require_answers(items)
    answers = Task.submission(None, ["good", "bad, very"], items)
    assert list(csv.reader(answers.splitlines())) == [["0", "good"], ["1", "bad, very"]]


def test_one_label_alone_is_refused(tmp_path):
    items = Task.read(write(tmp_path, "image,text,label\n1.png,a,x\n"), "", TaskSettings())
    with pytest.raises(ValueError, match="all labels are 'x'"):
        Task.labels(items, TaskSettings())


def test_spaces_make_no_other_label_and_other_encodings_are_named(tmp_path):
    path = write(tmp_path, "image,text,label\n1.png,a, no\n2.png,b,no\n3.png,c,\tyes \n")
    assert Task.labels(Task.read(path, "", TaskSettings()), TaskSettings()) == ["no", "yes"]
    (tmp_path / "train.csv").write_bytes("image,text,label\n1.png,a,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 2: not readable as UTF-8.*\?encoding=latin-1"):
        Task.read(path, "", TaskSettings())
    items = Task.read(f"{path}?encoding=latin-1", "", TaskSettings())
    assert items.rows["label"][:] == ["caf\xe9"]


def test_what_a_task_does_not_have_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no data were named for .*docs/tasks\.md"):
        Task.read("", "", TaskSettings())
    with pytest.raises(ValueError, match="has no items about scenes; name a file or a folder"):
        Task.read("scenes:3", "", TaskSettings())
