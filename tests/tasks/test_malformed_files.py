"""What is wrong with a file of items is said in one line that names the file."""

import json

import pytest

from vilta.tasks.formats.compositional_sets import read_set
from vilta.tasks.registry import find_task

ASKED = {"question_id": 7, "image_id": 1, "question": "what is it"}
ANSWERED = {"question_id": 7, "answers": [{"answer": "a ball"}]}
ARO = {"true_caption": "a", "false_caption": "b", "image_path": "1.jpg", "attributes": ["c", "d"]}
VALSE = {"caption": "a", "foil": "b", "image_file": "1.jpg"}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


def without(item, name):
    return {k: v for k, v in item.items() if k != name}


def vqa(question=ASKED, annotations=None):
    """The two files of VQAv2."""
    answers = {"annotations": [ANSWERED]} if annotations is None else annotations
    return {
        "v2_OpenEnded_mscoco_val2014_questions.json": {"questions": [question]},
        "v2_mscoco_val2014_annotations.json": answers,
    }


@pytest.mark.parametrize(
    ("task", "files", "problem"),
    [
        ("vqa", vqa(without(ASKED, "question_id")), "questions.json: .*no field 'question_id'"),
        ("vqa", vqa(without(ASKED, "image_id")), "questions.json: .*no field 'image_id'"),
        ("vqa", vqa(without(ASKED, "question")), "questions.json: .*no field 'question'"),
        ("vqa", vqa("what is it"), "questions.json: an item is not a JSON object"),
        ("vqa", vqa(annotations={}), "annotations.json: .*no field 'annotations'"),
        ("vqa", vqa(annotations=[ANSWERED]), "annotations.json: .*not a JSON object"),
        ("vqa", vqa(annotations={"annotations": 3}), "'annotations' is not a list"),
        (
            "vqa",
            vqa(annotations={"annotations": [without(ANSWERED, "question_id")]}),
            "annotations.json: .*no field 'question_id'",
        ),
        (
            "vqa",
            vqa(annotations={"annotations": [without(ANSWERED, "answers")]}),
            "annotations.json: .*no field 'answers'",
        ),
        (
            "vqa",
            vqa(annotations={"annotations": [ANSWERED | {"answers": [{"said": "a ball"}]}]}),
            "annotations.json: .*no field 'answer'",
        ),
        ("vqa", {"a.csv": "image,question,answer\n1.jpg,what is it\n"}, "line 2: it has no answer"),
        ("nlvr2", {"dev.json": {"identifier": "dev-1-0-0"}}, "no field 'sentence'"),
        (
            "nlvr2",
            {"dev.json": {"identifier": "my-1", "sentence": "a", "label": "True"}},
            "dev.json: 'my-1' is not of the form split-set-pair-sentence",
        ),
        ("snli-ve", {"dev.jsonl": {"Flickr30K_ID": "1"}}, "no field 'sentence2'"),
        ("classification", {"a.csv": "image,text,label\n1.jpg,a\n"}, "line 2: it has no label"),
        (
            "classification",
            {"a.csv": b"image,text,label\n1.jpg,\xff,a\n"},
            "line 2: not readable as UTF-8",
        ),
        ("fine-grained", {"a.csv": "image,caption,edit\n1.jpg,a\n"}, "line 2: it has no edit"),
        ("fine-grained", {"a.json": [ARO, without(ARO, "true_caption")]}, "'true_caption'"),
        ("fine-grained", {"a.json": [ARO | {"bbox_x": 1}]}, "no field 'bbox_y'"),
        ("fine-grained", {"a.json": [ARO, "text"]}, "one that is not a JSON object"),
        ("fine-grained", {"a.json": 3}, "holds no items"),
        ("fine-grained", {"a.json": [{"caption_options": "a"}]}, "is not a list"),
        (
            "fine-grained",
            {"a.json": [{"caption": "a", "foil": "b", "image_file": "1"}, {"caption": "a"}]},
            "no field 'image_file'",
        ),
        (
            "fine-grained",
            {"a.json": {"0": {"negative_caption": "a", "caption": "b", "filename": "1"}, "1": {}}},
            "no field 'caption'",
        ),
    ],
)
def test_malformed_files_are_one_line(tmp_path, task, files, problem):
    for name, content in files.items():
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    path = str(tmp_path / next(iter(files)))
    with pytest.raises(ValueError, match=problem) as caught:
        kind = find_task(task)
        kind.read(path, "", kind.settings_class())
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("task", "item", "problem"),
    [
        ("fine-grained", ARO | {side: {"x": 1} for side in BOX}, "the box of an item must be four"),
        ("fine-grained", ARO | dict.fromkeys(BOX, float("inf")), "the box of an item must be four"),
        ("fine-grained", ARO | {"attributes": "c d"}, "'attributes' is not a list"),
        ("fine-grained", VALSE | {"mturk": [3]}, "an item is not a JSON object"),
        ("fine-grained", VALSE | {"mturk": {"caption": "3"}}, "must be a number of votes"),
        ("fine-grained", {"a\nb": 1}, "its items have a b"),
        ("nlvr2", {"identifier": "a-0-0-0", "a\nb": 1}, "it has identifier, a b"),
    ],
)
def test_values_of_other_types_found_by_the_fuzzer(tmp_path, task, item, problem):
    path = tmp_path / "items.json"
    path.write_text(json.dumps([item]))
    kind = find_task(task)
    with pytest.raises(ValueError, match=problem) as error:
        kind.rows(str(path), kind.settings_class())
    assert "\n" not in str(error.value)


def test_a_folder_without_sets(tmp_path):
    with pytest.raises(ValueError, match="holds no JSON files"):
        read_set(str(tmp_path))
