"""Questions about images with short answers, as they are published.

VQAv2 and OK-VQA (a question file, the annotations beside it), easy-VQA, and lists of questions that
hold their answers: ALBEF's and BLIP's `vqa_train.json` and `vg_qa.json`, VizWiz, GQA, A-OKVQA,
TextVQA; a CSV of one's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vilta.data.sources.files import files_named, read_json
from vilta.data.sources.tables import LINES
from vilta.metrics.vqa_accuracy import normalise_answer
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.csv_lines import csv_lines, is_csv
from vilta.tasks.formats.json_lines import field, json_lines, list_field

QUESTIONS, ANNOTATIONS = "_questions.json", "_annotations.json"
OPEN_ENDED = "OpenEnded_"
"""Part of the question files' names that the annotation files' names lack."""
ANNOTATORS = 10
"""Where a data set gives fewer answers to a question, they are repeated to as many or more: one
counts as all ten annotators'."""
IMAGE_FIELDS = ("image", "imageId", "image_id")
"""Where a list names its image: ALBEF's and VizWiz's, GQA's, A-OKVQA's and TextVQA's."""
ANSWER_FIELDS = ("answers", "direct_answers", "answer")
"""Where a list has its answers: VizWiz and TextVQA, A-OKVQA, ALBEF and GQA."""
COCO_DIGITS = 12
"""A number names an image of COCO, whose files have this many digits."""


def read_questions(path: str) -> list[ItemRow]:
    """Return the questions of a file or folder; the layout is detected from the content.

    Raises ``ValueError`` in one line that names what is wrong.
    """
    if is_csv(path):
        return _csv_rows(path)
    place = Path(path)
    if place.is_dir():
        place = _question_file(place)
    content = json_lines(place) if place.suffix in LINES else read_json(place)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        # TextVQA, whose evaluator normalises all answers
        return [_listed(item, n, place, normalise=True) for n, item in enumerate(content["data"])]
    if isinstance(content, dict) and _of_questions(content.values()):
        return [_listed(item, name, place) for name, item in content.items()]
    if isinstance(content, list) and _of_questions(content):
        return [_listed(item, number, place) for number, item in enumerate(content)]
    if isinstance(content, list):
        return _easy_rows(place, content)
    return _official_rows(place, content)


def _of_questions(items: Iterable[Any]) -> bool:
    """Tell whether these are objects with a question each."""
    first = next(iter(items), None)
    return isinstance(first, dict) and "question" in first


def _listed(item: Any, place: int | str, path: Path, normalise: bool = False) -> ItemRow:
    """Return the row of a question that holds its answers, one or several, or none."""
    question = str(field(item, "question", path))
    image = next((item[name] for name in IMAGE_FIELDS if item.get(name) is not None), None)
    if image is None:
        raise ValueError(f"{path}: an item has no field {' / '.join(IMAGE_FIELDS)}")
    if isinstance(image, int):
        image = f"{image:0{COCO_DIGITS}}.jpg"
    given: Any = next((item[name] for name in ANSWER_FIELDS if item.get(name) is not None), [])
    each = given if isinstance(given, list) else [given]
    answers = [str(field(a, "answer", path)) if isinstance(a, dict) else str(a) for a in each]
    if normalise:
        answers = list(map(normalise_answer, answers))
    kind = item["types"].get("structural") if isinstance(item.get("types"), dict) else None
    name = str(item.get("question_id", place))
    row = question_row(name, str(image), question, answers, str(item.get("answer_type") or ""))
    return row | ({"kind": str(kind)} if kind else {})


def question_row(
    name: str, image: str, question: str, answers: list[str], answer_type: str = ""
) -> ItemRow:
    """Return an item of visual question answering.

    That fewer than ten annotators agree does not make their spelling exact, as the evaluator has
    it, so their answers are normalised here. Raises ``ValueError`` for an answer of which that
    leaves nothing.
    """
    if len(answers) < ANNOTATORS:
        normalised = [normalise_answer(answer) for answer in answers]
        if "" in normalised:
            raise ValueError(
                f"the answer {answers[normalised.index('')]!r} to question {name} is empty once it "
                "is normalised by VQA's rules (articles and punctuation go); spell it out, or use "
                "the task classification"
            )
        answers = normalised * math.ceil(ANNOTATORS / max(1, len(normalised)))
    most_given = Counter(answers).most_common(1)[0][0] if answers else ""
    return {
        "id": name,
        "images": [image],
        "texts": [question],
        "answers": answers,
        "most_given": most_given,
        "answer_type": answer_type
        or ("yes/no" if normalise_answer(most_given) in ("yes", "no") else "other"),
    }


def _question_file(folder: Path) -> Path:
    """Return the one question file of a folder."""
    found = files_named(folder, f"*{QUESTIONS}") or files_named(folder, "questions.json")
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or f"none that ends in {QUESTIONS}"
        raise ValueError(f"{folder}: name one question file; there are: {names}")
    return found[0]


def _official_rows(path: Path, content: Any) -> list[ItemRow]:
    """VQAv2: https://visualqa.org/download.html."""
    questions = list_field(content, "questions", path)
    # The field of the published files; a user's file may give it only by its name.
    named = path.name.removesuffix(QUESTIONS).rpartition("_")[2]
    split = str(content.get("data_subtype") or named)
    image_split = "test2015" if split.startswith("test") else split
    place = path.with_name(path.name.replace(OPEN_ENDED, "").replace(QUESTIONS, ANNOTATIONS))
    given: dict[str, Any] = {}
    if place.is_file() and place != path:
        annotations = list_field(read_json(place), "annotations", place)
        given = {str(field(item, "question_id", place)): item for item in annotations}
    rows = []
    for question in questions:
        name = str(field(question, "question_id", path))
        annotation = given.get(name, {"answers": []})
        answers = list_field(annotation, "answers", place)
        row = question_row(
            name,
            f"COCO_{image_split}_{field(question, 'image_id', path)!s:0>12}.jpg",
            str(field(question, "question", path)),
            [str(field(answer, "answer", place)) for answer in answers],
            annotation.get("answer_type", ""),
        )
        row["most_given"] = annotation.get("multiple_choice_answer") or row["most_given"]
        rows.append(row)
    lacking = sum(not row["answers"] for row in rows)
    if given and lacking:
        raise ValueError(f"{place} has no answers for {lacking} of {len(rows)} questions")
    return rows


def _easy_rows(path: Path, content: list[Any]) -> list[ItemRow]:
    """easy-VQA (https://github.com/vzhou842/easy-VQA): [question, answer, image number]."""
    if not all(isinstance(item, list) and len(item) == 3 for item in content):
        raise ValueError(f"{path} is not a list of [question, answer, image]")
    return [
        question_row(str(number), f"{image}.png", str(question), [str(answer)])
        for number, (question, answer, image) in enumerate(content)
    ]


def _csv_rows(path: str) -> list[ItemRow]:
    """A user's own: columns image, question, answer."""
    return [
        question_row(
            str(number), line["image"], line["question"], list(filter(None, [line["answer"]]))
        )
        for number, line in enumerate(csv_lines(path, ("image", "question"), answer="answer"))
    ]
