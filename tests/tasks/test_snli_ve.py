import pytest
import torch
from task_case import loader_of, make_task, write_images, write_lines
from torch.nn import functional as F

from vilta.tasks.snli_ve import LABELS, EntailmentSettings
from vilta.tasks.snli_ve import VisualEntailment as Task


def lines(key="Flickr30K_ID", suffix=""):
    """As the two generators of the release write them."""
    labels = ["entailment", "-", "contradiction", "neutral"]
    return [
        {
            "annotator_labels": [label],
            "captionID": f"{i}.jpg#0",
            "gold_label": label,
            "pairID": f"{i}.jpg#0r1e",
            "sentence1": "a man in a field",
            "sentence2": f"{word} man",
            key: f"{i}{suffix}",
        }
        for i, (label, word) in enumerate(zip(labels, ["a", "two", "no", "one"], strict=True))
    ]


@pytest.mark.parametrize(("key", "suffix"), [("Flickr30K_ID", ""), ("Flikr30kID", ".jpg")])
def test_both_spellings_of_the_release(tmp_path, key, suffix):
    write_images(tmp_path / "images", *(f"{i}.jpg" for i in range(4)))
    items = Task.read(
        write_lines(tmp_path / "snli_ve_dev.jsonl", lines(key, suffix)), "", EntailmentSettings()
    )
    assert list(items.rows["label"]) == ["entailment", "contradiction", "neutral"]  # no "-"
    assert items.rows[1]["texts"] == ["no man"]
    assert items.rows[1]["id"] == "2.jpg#0r1e"
    assert items.images.read(items.rows[1]["images"][0])


def test_the_corrected_labels_of_e_snli_ve(tmp_path):
    write_images(tmp_path, "1.jpg")
    (tmp_path / "esnlive_dev.csv").write_text(
        "pairID,Flickr30kID,hypothesis,gold_label,explanation\n"
        '1.jpg#0r1e,1.jpg,"A man, outdoors",entailment,"he is, in a field"\n'
    )
    items = Task.read(str(tmp_path / "esnlive_dev.csv"), "", EntailmentSettings())
    assert items.rows[0]["texts"] == ["A man, outdoors"] and items.rows[0]["id"] == "1.jpg#0r1e"
    assert items.rows[0]["label"] == "entailment" and items.rows[0]["images"] == ["1.jpg"]


def test_the_premise_can_be_read_too(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(4)))
    path = write_lines(tmp_path / "dev.jsonl", lines())
    items = Task.read(path, "", EntailmentSettings(premise=True))
    assert items.rows[0]["texts"] == ["a man in a field a man"]
    with pytest.raises(ValueError, match="scenes have no premise"):
        Task.read("scenes:3", "", EntailmentSettings(premise=True))


def test_loss_figures_and_answers(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(4)))
    items = Task.read(write_lines(tmp_path / "dev.jsonl", lines()), "", EntailmentSettings())
    task = make_task(Task, items, tmp_path / "model")
    assert list(task.known) == LABELS == ["contradiction", "neutral", "entailment"]
    (batch,) = loader_of(task, items, batch_size=3)
    expected = F.cross_entropy(task.logits(batch), torch.tensor([2, 0, 1]))
    assert torch.allclose(task(batch).total, expected)
    loader = loader_of(task, items)
    task.predict = lambda loader: ["entailment", "neutral", "neutral"]
    metrics = task.evaluate(task.predict(loader), items)
    assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert metrics["majority"] == pytest.approx(100 / 3)
    assert metrics["accuracy/contradiction"] == 0.0
    assert task.submission(task.predict(loader), items).splitlines()[1] == "2.jpg#0r1e,neutral"


def test_hidden_labels_are_predicted_but_not_measured(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(4)))
    path = write_lines(tmp_path / "dev.jsonl", lines())
    task = make_task(Task, Task.read(path, "", EntailmentSettings()), tmp_path / "model")
    content = lines()
    for item in content[2:]:
        del item["gold_label"]
    secret = Task.read(write_lines(tmp_path / "dev.jsonl", content), "", EntailmentSettings())
    assert list(secret.rows["label"]) == ["entailment", "", ""]  # "-" is left out as ever
    task.check(secret)
    loader = loader_of(task, secret)
    submission = task.submission(task.predict(loader), secret)
    answers = [line.split(",") for line in submission.splitlines()]
    assert [name for name, _ in answers] == [f"{i}.jpg#0r1e" for i in (0, 2, 3)]
    assert {answer for _, answer in answers} <= set(LABELS)
    with pytest.raises(ValueError, match=r"2 of 3 items of .*first: 2.jpg#0r1e; add the field"):
        task.evaluate(task.predict(loader), secret)


def test_labels_that_the_model_does_not_know_are_refused(tmp_path):
    write_images(tmp_path, *(f"{i}.jpg" for i in range(4)))
    content = lines()
    content[3]["gold_label"] = "perhaps"
    items = Task.read(write_lines(tmp_path / "dev.jsonl", content), "", EntailmentSettings())
    with pytest.raises(ValueError, match=r"label 'perhaps' is not among .*contradiction, neutral"):
        make_task(Task, items, tmp_path / "model")


def test_an_item_without_an_image_is_named(tmp_path):
    content = [{k: v for k, v in lines()[0].items() if k != "Flickr30K_ID"}]
    with pytest.raises(ValueError, match="line 1: no image id"):
        Task.read(write_lines(tmp_path / "dev.jsonl", content), "", EntailmentSettings())


def test_scenes_hide_an_object_in_some_pictures():
    items = Task.read("scenes:40?seed=3&size=32", "", EntailmentSettings())
    hidden = ["hidden" in images[0] for images in items.rows["images"]]
    assert 0.2 < sum(hidden) / len(hidden) < 0.9
    neutral = [
        h for h, label in zip(hidden, items.rows["label"], strict=True) if label == LABELS[1]
    ]
    assert neutral and all(neutral)
    assert all(items.images.read(images[0]) for images in items.rows["images"])
