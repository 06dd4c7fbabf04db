"""Items as ALBEF, BLIP, VizWiz, GQA, A-OKVQA and TextVQA publish them, field for field."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_case import write_images, write_json

from vilta.config.finetune import TaskSettings
from vilta.metrics.nlvr2 import nlvr2_metrics
from vilta.metrics.vqa_accuracy import soft_scores
from vilta.tasks.formats.question_files import read_questions
from vilta.tasks.label_task import by_kind
from vilta.tasks.nlvr2 import VisualReasoning
from vilta.tasks.snli_ve import EntailmentSettings, VisualEntailment
from vilta.tasks.vqa import VisualQuestionAnswering, VqaSettings


def rows_of(task, path, images="", settings=TaskSettings):
    return list(task.read(path, images, settings()).rows)


TEN = ["net"] * 6 + ["nets"] * 4
LISTED = {
    "albef": [
        {
            "question_id": 458752000,
            "question": "What is this?",
            "answer": TEN,
            "image": "train2014/a.jpg",
            "dataset": "vqa",
        },
        {"image": "image/b.jpg", "question": "What is it?", "answer": "A net.", "dataset": "vg"},
    ],
    "vizwiz": [
        {
            "image": "a.jpg",
            "question": "What is this?",
            "answers": [{"answer_confidence": "yes", "answer": answer} for answer in TEN],
            "answer_type": "other",
            "answerable": 1,
        }
    ],
    "gqa": {
        "02930152": {
            "question": "What is this?",
            "answer": "net",
            "fullAnswer": "This is a net.",
            "imageId": "a",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "obj", "detailed": "categoryThis"},
        }
    },
    "aokvqa": [
        {
            "split": "val",
            "image_id": 299207,
            "question_id": "22MexNkBPpdZGX6sxbxVBH",
            "question": "What is this?",
            "choices": ["net", "cart"],
            "correct_choice_idx": 0,
            "direct_answers": TEN,
        }
    ],
    "textvqa": {
        "dataset_type": "val",
        "data": [
            {
                "image_id": "a",
                "question_id": 34602,
                "question": "What is this?",
                "answers": ["Net."] * 10,
                "image_classes": ["Camera"],
            }
        ],
    },
}


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "images", "train2014/a.jpg", "image/b.jpg", "000000299207.jpg")
    return str(tmp_path / "images")


@pytest.mark.parametrize("kind", LISTED)
def test_lists_of_questions(kind, images, tmp_path):
    path = write_json(tmp_path / f"{kind}.json", LISTED[kind])
    first, *others = rows_of(VisualQuestionAnswering, path, images, VqaSettings)
    assert first["texts"] == ["What is this?"] and first["most_given"] == "net"
    assert first["answers"] == (["net"] * 10 if kind in ("gqa", "textvqa") else TEN)
    assert (
        first["id"]
        == {
            "albef": "458752000",
            "vizwiz": "0",
            "gqa": "02930152",
            "aokvqa": "22MexNkBPpdZGX6sxbxVBH",
            "textvqa": "34602",
        }[kind]
    )
    if kind == "gqa":
        assert first["kind"] == "query"
    if kind == "albef":
        assert others[0]["answers"] == ["net"] * 10 and others[0]["id"] == "1"


def test_a_few_answers_count_like_ten(images, tmp_path):
    item = {"image": "image/b.jpg", "question": "What is this?"}
    for answers, second in ((["dog"] * 2, 0), (["dog"] * 3, 0), (["dog", "puppy"], 100)):
        path = write_json(tmp_path / "vqa.json", [item | {"answer": answers}] * 2)
        items = VisualQuestionAnswering.read(path, images, VqaSettings())
        metrics = VisualQuestionAnswering.evaluate(
            SimpleNamespace(require_answers=lambda items: None), ["dog", "puppy"], items
        )
        assert metrics["accuracy"] == (100 + second) / 2
        scores = soft_scores(items.rows[0]["answers"])
        assert scores == dict.fromkeys(answers, 1.0)


@pytest.mark.parametrize("order", [("q1", "q2"), ("q2", "q1")])
def test_kinds_that_only_some_questions_have(order, images, tmp_path):
    query = LISTED["gqa"]["02930152"]
    each = {"q1": query, "q2": {k: v for k, v in query.items() if k != "types"}}
    path = write_json(tmp_path / "gqa.json", {name: each[name] for name in order})
    items = VisualQuestionAnswering.read(path, images, VqaSettings())
    assert by_kind(items, [name == "q1" for name in order]) == {"kind/query": 100.0}


def test_questions_without_answers_are_secret(images, tmp_path):
    item = {k: v for k, v in LISTED["albef"][0].items() if k != "answer"}
    items = VisualQuestionAnswering.read(
        write_json(tmp_path / "test.json", [item]), images, VqaSettings()
    )
    assert VisualQuestionAnswering.unanswered(items) == ["458752000"]


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"question": "what"}, "no field image / imageId / image_id"),
        ({"question": "what", "image": "a.jpg", "answers": [{"said": 1}]}, "no field 'answer'"),
        (
            {"question": "what", "image": "gone.jpg", "answer": "x"},
            r"1 of 1 image is not in .*vilta evaluate: --images, .*--edits-.*the first: gone\.jpg",
        ),
    ],
)
def test_lists_that_lack_something_are_one_line(item, problem, images, tmp_path):
    with pytest.raises(ValueError, match=problem) as error:
        rows_of(VisualQuestionAnswering, write_json(tmp_path / "x.json", [item]), images)
    assert "\n" not in str(error.value)


def test_albefs_list_of_nlvr2_is_the_official_one(tmp_path):
    sentences = {"dev-850-0": ["both", "left"], "dev-850-1": ["both"]}
    items = [
        {
            "sentence": sentence,
            "label": label,
            "images": [f"nlvr2/dev/{pair}-img0.png", f"nlvr2/dev/{pair}-img1.png"],
        }
        for pair, texts in sentences.items()
        for sentence, label in zip(texts, ["True", "False"], strict=False)
    ]
    for pair in sentences:
        write_images(tmp_path / "dev", f"{pair}-img0.png", f"{pair}-img1.png")
    rows = rows_of(VisualReasoning, write_json(tmp_path / "nlvr_dev.json", items))
    assert [row["id"] for row in rows] == ["dev-850-0-0", "dev-850-0-1", "dev-850-1-0"]
    assert [row["label"] for row in rows] == ["True", "False", "True"]
    items[0]["images"] = items[0]["images"][:1]
    with pytest.raises(ValueError, match="an item has 1 images, where two are compared"):
        rows_of(VisualReasoning, write_json(tmp_path / "nlvr_dev.json", items))


@pytest.mark.parametrize("third", ["my-dog.jpg", "2024-01-05.jpg"])
def test_a_list_of_nlvr2_of_ones_own_photos_can_be_measured(third, tmp_path):
    """Their names tell no pair; the same sentence counts as one, as in the official sets."""
    write_images(tmp_path / "photos", "1.jpg", "2.jpg", third)
    pairs = [("1.jpg", "2.jpg", "both"), (third, "2.jpg", "both"), ("1.jpg", "2.jpg", "one")]
    items = [
        {"sentence": sentence, "label": "True", "images": [left, right]}
        for left, right, sentence in pairs
    ]
    rows = rows_of(VisualReasoning, write_json(tmp_path / "dev.json", items))
    assert [row["id"] for row in rows] == ["list-0-0-0", "list-0-1-0", "list-0-2-1"]
    right = [True, False, True]
    metrics = nlvr2_metrics([row["id"] for row in rows], right, [True] * 3)
    assert metrics["consistency"] == 50
    for number, item in enumerate(items):  # a name of one's own stands in the submission
        item["identifier"] = f"dev-{number}-0-0"
    rows = rows_of(VisualReasoning, write_json(tmp_path / "dev.json", items))
    assert [row["id"] for row in rows] == ["dev-0-0-0", "dev-1-0-0", "dev-2-0-0"]
    items[1]["identifier"] = "second"
    with pytest.raises(ValueError, match="'second' is not of the form split-set-pair-sentence"):
        rows_of(VisualReasoning, write_json(tmp_path / "dev.json", items))


def test_albefs_list_of_snli_ve(tmp_path):
    write_images(tmp_path, "4804607632.jpg")
    items = [{"image": "flickr30k/4804607632.jpg", "sentence": "a man", "label": "entailment"}]
    [row] = rows_of(
        VisualEntailment, write_json(tmp_path / "ve.json", items), settings=EntailmentSettings
    )
    assert (row["texts"], row["label"]) == (["a man"], "entailment")
    with pytest.raises(ValueError, match="an item is not a JSON object; it is 'text'"):
        rows_of(
            VisualEntailment,
            write_json(tmp_path / "ve.json", [*items, "text"]),
            settings=EntailmentSettings,
        )


FIELDS = ["question", "image", "image_id", "answer", "answers", "data", "questions", "types", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_questions_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "x.json"
    path.write_text(json.dumps(content))
    try:
        rows = read_questions(str(path))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(answer, str) for row in rows for answer in row["answers"])
