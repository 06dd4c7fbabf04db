import json
import math
from pathlib import Path

import pytest
import torch
from task_case import loader_of, make_task, write_images, write_json

from vilta.metrics.vqa_accuracy import vqa_accuracy
from vilta.tasks.vqa import VisualQuestionAnswering as Task
from vilta.tasks.vqa import VqaSettings

ANSWERS = [["yes"] * 10, ["Red."] * 3 + ["blue"] * 2 + ["green"] + ["two"] * 4, ["no"] * 9 + ["2"]]


def write_official(folder, split="train2014", answers=ANSWERS, annotated=None):
    """VQAv2 as it is published, field for field."""
    questions = [
        {"image_id": 9 + i % 2, "question": "what colour is the ball ?", "question_id": 100 + i}
        for i in range(len(answers))
    ]
    annotations = [
        {
            "question_id": 100 + i,
            "image_id": 9 + i % 2,
            "question_type": "what color is the",
            "answer_type": ("yes/no", "other", "number")[i % 3],
            "multiple_choice_answer": max(given, key=given.count),
            "answers": [
                {"answer": a, "answer_confidence": "yes", "answer_id": n + 1}
                for n, a in enumerate(given)
            ],
        }
        for i, given in enumerate(answers)
    ]
    about = {"info": {}, "data_type": "mscoco", "data_subtype": split, "license": {}}
    path = write_json(
        folder / f"v2_OpenEnded_mscoco_{split}_questions.json",
        about | {"task_type": "Open-Ended", "questions": questions},
    )
    if annotated is None:
        annotated = annotations
    if annotated:
        name = f"v2_mscoco_{split}_annotations.json"
        write_json(folder / name, about | {"annotations": annotated})
    write_images(folder / split, *(f"COCO_{split}_{i:012d}.jpg" for i in (9, 10)))
    return path


def read(path, images="", **settings):
    return Task.read(path, images, VqaSettings(**settings))


def test_the_published_layout(tmp_path):
    items = read(write_official(tmp_path))
    assert list(items.rows["id"]) == ["100", "101", "102"]
    assert list(items.rows["images"])[1] == ["COCO_train2014_000000000010.jpg"]
    assert [sorted(a) for a in items.rows["answers"]] == [sorted(a) for a in ANSWERS]
    assert list(items.rows["answer_type"]) == ["yes/no", "other", "number"]


def test_a_folder_with_a_plus_in_its_name(tmp_path):
    (tmp_path / "c").mkdir()
    folder = tmp_path / "c++"
    write_images(folder, "a.png")
    for name in ("x.csv", "y+z.csv"):
        (folder / name).write_text("image,question,answer\na.png,what is it,dog\n")
    assert len(read(f"{folder}/x.csv")) == len(read(f"{folder}/y+z.csv")) == 1
    assert len(read(f"{folder}/x.csv?encoding=latin-1+{folder}/y+z.csv+{folder}/x.csv")) == 3
    with pytest.raises(ValueError, match=r"no such file or folder: \S*/gone.csv$"):
        read(f"{folder}/x.csv+{folder.parent}/gone.csv+{folder}/x.csv")


def test_several_files_are_joined(tmp_path):
    first, second = write_official(tmp_path), write_official(tmp_path, "val2014")
    assert len(read(f"{first}+{second}", str(tmp_path))) == 6


def test_files_in_different_folders_need_one_place_of_images(tmp_path):
    paths = [write_official(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"in different folders; --data.images .* of both"):
        read("+".join(paths))
    assert len(read("+".join(paths), str(tmp_path / "a"))) == 6


def test_a_part_of_a_published_file_finds_its_images_under_any_name(tmp_path):
    path = Path(write_official(tmp_path))
    part = path.with_name("v2_OpenEnded_mscoco_train2014_part_questions.json")
    part.write_text(path.read_text())
    assert read(str(part)).rows["images"][:] == read(str(path)).rows["images"][:]


def test_the_vocabulary_is_what_is_often_the_most_given_answer(tmp_path):
    answers = [["Yes."] * 10] * 9 + [["the red"] * 6 + ["blue"] * 4] * 8 + [["2"] * 10] * 12
    items = read(write_official(tmp_path, answers=answers))
    # red: 8 times, blue never the most. All who agree say "Yes.", so the evaluator wants that.
    assert Task.labels(items, VqaSettings()) == ["2", "Yes."]
    assert Task.labels(items, VqaSettings(min_answers=8)) == ["2", "Yes.", "red"]
    with pytest.raises(ValueError, match="no answer is given 13 times"):
        Task.labels(items, VqaSettings(min_answers=13))


def test_targets_and_loss_by_hand(tmp_path):
    items = read(write_official(tmp_path), min_answers=1)
    task = make_task(Task, items, tmp_path / "model", min_answers=1)
    assert sorted(task.known) == ["2", "no", "yes"]  # "two" is most given, and normalised
    row = items.rows[1]
    expected = {"2": 1.0}  # red, blue and green are outside of the vocabulary
    assert task.target(row).tolist() == [expected.get(a, 0.0) for a in task.known]
    assert task.target(items.rows[2])[task.known["2"]] == pytest.approx(0.3)

    (batch,) = loader_of(task, items, batch_size=3)
    logits, targets = task.logits(batch), batch.targets
    total = 0.0
    for row in range(3):
        for x, t in zip(logits[row].tolist(), targets[row].tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
    assert task(batch).total.item() == pytest.approx(total / 3, rel=1e-4)


def test_figures_are_the_official_accuracy_of_the_chosen_answers(tmp_path):
    items = read(write_official(tmp_path), min_answers=1)
    task = make_task(Task, items, tmp_path / "model", min_answers=1)
    loader = loader_of(task, items)
    task.predict = lambda loader: ["yes", "red", "2"]
    metrics = task.evaluate(task.predict(loader), items)
    each = [vqa_accuracy(p, a) for p, a in zip(["yes", "red", "2"], ANSWERS, strict=True)]
    assert metrics["accuracy"] == pytest.approx(100 * sum(each) / 3)
    assert metrics["accuracy/other"] == pytest.approx(100 * each[1])
    assert 0 < each[1] < 1


def test_predictions_are_the_likeliest_answers_in_order(tmp_path):
    items = read(write_official(tmp_path), min_answers=1)
    task = make_task(Task, items, tmp_path / "model", min_answers=1)
    with torch.no_grad():
        logits = torch.cat([task.logits(batch) for batch in loader_of(task, items, 1)])
    names = [task.model.config.id2label[i] for i in logits.argmax(1).tolist()]
    assert task.predict(loader_of(task, items)) == names


def test_questions_of_the_test_server_are_answered_but_not_measured(tmp_path):
    items = read(write_official(tmp_path), min_answers=1)
    task = make_task(Task, items, tmp_path / "model", min_answers=1)
    secret = read(write_official(tmp_path / "test", "test2015", annotated=[]))
    assert not any(secret.rows["answers"])
    assert task.target(secret.rows[0]).tolist() == [0.0] * len(task.known)
    result = json.loads(task.submission(task.predict(loader_of(task, secret)), secret))
    assert [line["question_id"] for line in result] == [100, 101, 102]
    assert all(line["answer"] in task.known for line in result)
    shown, hidden = (next(iter(loader_of(task, which))) for which in (items, secret))
    assert torch.equal(shown.pixel_values, hidden.pixel_values)  # the images, not blank ones
    with pytest.raises(ValueError, match=r"3 of 3 items of .* have no answer, the first: 100; add"):
        task.evaluate(task.predict(loader_of(task, secret)), secret)


def test_annotations_that_lack_questions_are_refused(tmp_path):
    path = write_official(tmp_path)
    place = tmp_path / "v2_mscoco_train2014_annotations.json"
    content = json.loads(place.read_text())
    write_json(place, content | {"annotations": content["annotations"][:1]})
    with pytest.raises(ValueError, match="no answers for 2 of 3 questions"):
        read(path)


def test_easy_vqa_and_a_csv_of_ones_own(tmp_path):
    write_images(tmp_path / "images", "0.png", "1.png")
    write_json(tmp_path / "questions.json", [["what colour is the ball?", "red", 1]])
    items = read(str(tmp_path))
    assert items.rows[0]["images"] == ["1.png"]
    assert items.rows[0]["answers"] == ["red"] * 10
    table = tmp_path / "mine.csv"
    table.write_text("image,question,answer\n0.png,is the ball red,yes\n")
    assert read(str(table)).rows[0]["answer_type"] == "yes/no"
    table.write_text("image,question\n0.png,is the ball red\n")  # nobody knows the answer
    assert Task.unanswered(read(str(table))) == ["0"]
    with pytest.raises(ValueError, match=r"1 of 1 items .* column answer .* --submission"):
        Task.require_answers(read(str(table)))
    table.write_text("image,question,answer\n0.png,is the ball red\n")
    with pytest.raises(ValueError, match="line 2: it has no answer"):
        read(str(table))
    table.write_text("image,answer\n0.png,yes\n")
    with pytest.raises(ValueError, match="no column 'question'; it needs image,question,answer"):
        read(str(table))


def metrics_of_the_best(items, folder):
    """Figures of a model that always chooses the answer that its target scores highest."""
    task = make_task(Task, items, folder, min_answers=1)
    names = task.model.config.id2label
    best = [names[int(task.target(row).argmax())] for row in items.rows]
    task.predict = lambda loader: best
    return task.evaluate(task.predict(loader_of(task, items)), items)


def test_one_answer_in_any_spelling_is_right_in_training_and_in_evaluation(tmp_path):
    write_images(tmp_path, "0.png")
    spelled = ["Yes", "yes ", "No", "New York", "two", "B", "t-shirt"]
    (tmp_path / "a.csv").write_text(
        "image,question,answer\n" + "".join(f"0.png,is it,{a}\n" for a in spelled)
    )
    items = read(str(tmp_path / "a.csv"))
    expected = ["2", "b", "new york", "no", "t shirt", "yes"]
    assert sorted(Task.labels(items, VqaSettings(min_answers=1))) == expected
    assert metrics_of_the_best(items, tmp_path / "model")["accuracy"] == 100.0
    assert items.rows["answer_type"][:3] == ["yes/no"] * 3

    layout = write_official(tmp_path / "own", answers=[[a] for a in spelled])
    assert metrics_of_the_best(read(layout), tmp_path / "model")["accuracy"] == 100.0
    layout = write_official(tmp_path / "ten", answers=[[a] * 10 for a in ("Yes", "2", "t-shirt")])
    assert metrics_of_the_best(read(layout), tmp_path / "model")["accuracy"] == 100.0


def test_an_answer_that_normalising_empties_is_refused(tmp_path):
    write_images(tmp_path, "0.png")
    (tmp_path / "a.csv").write_text("image,question,answer\n0.png,which one,A\n")
    with pytest.raises(ValueError, match=r"the answer 'A' .* is empty once .*classification"):
        read(str(tmp_path / "a.csv"))
    every = read(write_official(tmp_path / "official", answers=[["A"] * 10] * 3))
    with pytest.raises(ValueError, match="nothing is left of any answer"):
        Task.labels(every, VqaSettings(min_answers=1))


@pytest.mark.parametrize("content", [{}, {"questions": 3}, [["too", "short"]], "text"])
def test_other_json_is_one_line(tmp_path, content):
    path = write_json(tmp_path / "a_questions.json", content)
    with pytest.raises(ValueError, match="a_questions"):
        read(path)


def test_scenes_answer_their_own_questions(tmp_path):
    items = read("scenes:20?seed=3&size=32", min_answers=1)
    assert len(items) == 100
    assert {k for k in items.rows["kind"]} >= {"colour", "shape", "count"}
    assert len(set(items.rows["id"])) == 100
