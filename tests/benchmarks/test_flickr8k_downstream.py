"""Splits by photo, DAQUAR's items, and results from answers, checked against hand-made files."""

import csv
import json
import shutil
from itertools import chain

import pytest
import torch
from benchmarks.flickr8k import downstream
from benchmarks.flickr8k.daquar import Daquar, DaquarSettings, answer_scores
from PIL import Image

from vilta.data.examples import examples_from
from vilta.data.images import find_images

QUESTIONS = [
    ("a.jpg", "what is on the desk ?", "book, cup"),
    ("a.jpg", "what is left ?", "cup, book"),
    ("b.jpg", "how many chairs ?", "2"),
    ("b.jpg", "what is red ?", "lamp"),
    ("c.jpg", "how many desks ?", "2"),
]


def write_questions(path, questions=QUESTIONS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *questions])
    return path


def test_answer_lists_have_no_order_and_rare_ones_are_no_class(tmp_path):
    rows = Daquar.rows(str(write_questions(tmp_path / "train.csv")), DaquarSettings())
    assert [row["label"] for row in rows] == ["book, cup", "book, cup", "2", "lamp", "2"]
    assert rows[0]["images"] == ["a.jpg"] and rows[0]["texts"] == ["what is on the desk ?"]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    for name in "bc":
        shutil.copy(tmp_path / "a.jpg", tmp_path / f"{name}.jpg")
    items = examples_from(rows, find_images(str(tmp_path)), "train.csv")
    assert Daquar.labels(items, DaquarSettings()) == ["2", "book, cup"]
    assert Daquar.labels(items, DaquarSettings(min_answers=1)) == ["2", "book, cup", "lamp"]
    with pytest.raises(ValueError, match=r"lower --settings.min-answers"):
        Daquar.labels(items, DaquarSettings(min_answers=3))

    class Known(Daquar):
        known = {"2": 0, "book, cup": 1}  # noqa: RUF012

        def __init__(self):
            torch.nn.Module.__init__(self)

    targets = torch.stack([Known().target(row) for row in rows])
    assert targets.tolist() == [1, 1, 0, -100, 0]
    loss = torch.nn.functional.cross_entropy(torch.zeros(5, 2), targets)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item()), "rare one left out"


def test_scores_of_answers():
    assert answer_scores(["cup, book", "2", "lamp"], ["book, cup", "2", "2"])["accuracy"] == [
        1,
        1,
        0,
    ]


def test_a_tenth_of_the_photos_is_held_out(tmp_path):
    questions = [(f"image{n % 400}.jpg", f"what {n} ?", "lamp") for n in range(800)]
    write_questions(tmp_path / "data" / "daquar" / "train.csv", questions)
    downstream.split_daquar(tmp_path / "data", tmp_path)
    parts = {}
    for name in ("train", "val"):
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            parts[name] = [tuple(line.values()) for line in csv.DictReader(file)]
    photos = {name: {line[0] for line in lines} for name, lines in parts.items()}
    assert sorted(parts["train"] + parts["val"]) == sorted(questions)
    assert not photos["train"] & photos["val"]
    assert 20 <= len(photos["val"]) <= 60


def test_each_photo_is_answered_in_one_fold_and_trained_on_in_the_others(tmp_path):
    items = [{"Flickr30K_ID": f"{n % 60}", "sentence2": f"item {n}"} for n in range(120)]
    (tmp_path / "snli_ve_dev.jsonl").write_text("\n".join(map(json.dumps, items)))
    downstream.split_snli(tmp_path, tmp_path)

    def read(name, k):
        return list(map(json.loads, (tmp_path / f"{name}-{k}.jsonl").read_text().splitlines()))

    held_out = [read("val", k) for k in range(3)]
    assert sorted(chain(*held_out), key=items.index) == items
    for k, val in enumerate(held_out):
        photos = {item["Flickr30K_ID"] for item in val}
        assert 10 <= len(photos) <= 30
        assert read("train", k) == [i for i in items if i["Flickr30K_ID"] not in photos]


def write_outcome(out, data, seed, answers):
    """Write what `run` leaves behind, with these answers."""
    out.mkdir()
    downstream.split_daquar(data, out)
    (out / "run.json").write_text(json.dumps({"data": str(data), "seed": seed}))
    for arm, given in answers.items():
        folder = out / f"{arm}-0"
        folder.mkdir()
        (folder / "answers").write_text(json.dumps(given))
        lines = [{"device": "CPU"}, {"step": 8, "seconds": 60, "epoch": 2.0}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return out


def test_result_over_two_seeds(tmp_path, monkeypatch):
    data = tmp_path / "data"
    write_questions(data / "daquar" / "train.csv")
    held_out = {"b.jpg": 0}
    monkeypatch.setattr(downstream, "fold_of", lambda photo, folds: held_out.get(photo, 1))
    first = {"image": ["2", "lamp"], "blind": ["2", "cup"]}  # held out: "2" and "lamp"
    outs = [
        write_outcome(tmp_path / "seed-0", data, 0, first),
        write_outcome(tmp_path / "seed-1", data, 1, {"image": ["2", "cup"], "blind": ["1", "cup"]}),
    ]
    result = downstream.collect("daquar", outs)
    means = {name: value["mean"] for name, value in result["intervals"].items()}
    assert means["image, accuracy"] == 75 and means["blind, accuracy"] == 25
    assert means["image minus blind, accuracy"] == 50
    assert means["most frequent, accuracy"] == 0, "of the training questions: book, cup"
    assert result["by seed"]["image, accuracy"] == {"0": 100.0, "1": 50.0}
    assert result["items"] == 2 and result["seed"] == [0, 1] and result["minutes"] == 4.0
    one = downstream.collect("daquar", outs[:1])
    assert "one seed (0)" in one["note"] and one["intervals"]["image, accuracy"]["mean"] == 100
    assert one["title"].endswith("seed 0") and "seed" not in result["title"]
    assert "Not trained to the end: scratch." in one["note"], "an arm that is missing is named"


def test_answers_of_every_format(tmp_path):
    for text, expected in {
        '[{"question_id": 1, "answer": "a, b"}]': ["a, b"],
        '["a, b", "c"]': ["a, b", "c"],
        "1,neutral\n2,entailment\n": ["neutral", "entailment"],
    }.items():
        (tmp_path / "answers").write_text(text)
        assert downstream.read_answers(tmp_path / "answers") == expected
