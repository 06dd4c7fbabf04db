"""Visual question answering: VQAv2, and any questions with short answers.

VQAv2 (https://visualqa.org): a question file and the annotation file beside it. The answers are
the vocabulary of a classifier; targets are soft scores, the loss binary cross-entropy, as in
bottom-up attention (arXiv 1707.07998), METER and ViLT.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vilta.config.finetune import TaskSettings
from vilta.data.examples import Examples, PairItems
from vilta.data.sources import ScenesName
from vilta.data.sources.files import read_json
from vilta.metrics.vqa_accuracy import (
    mean_vqa_accuracy,
    normalise_answer,
    soft_scores,
    vqa_accuracy,
)
from vilta.model import ViltaForVisualQuestionAnswering
from vilta.scenes import Draws, make_scene, questions
from vilta.tasks.finetuning import Row
from vilta.tasks.formats.csv_lines import csv_lines, is_csv
from vilta.tasks.formats.json_lines import field, list_field
from vilta.tasks.label_task import LabellingTask, by_kind
from vilta.types import ExampleBatch, Losses

QUESTIONS, ANNOTATIONS = "_questions.json", "_annotations.json"
OPEN_ENDED = "OpenEnded_"
"""Part of the question files' names that the annotation files' names lack."""
ANNOTATORS = 10
"""Where a data set gives one answer to a question, that answer counts as all ten annotators'."""
PER_SCENE = 5
"""Questions about one scene (our choice)."""


@dataclass(frozen=True, kw_only=True)
class VqaSettings(TaskSettings):
    """Settings of visual question answering."""

    min_answers: int = 9
    """Answers given less often in training are left out (9 leaves the usual 3,129 of VQAv2's
    train2014 and val2014 together, fewer of train2014 alone)."""


class VisualQuestionAnswering(LabellingTask):
    """Rows: ``answers`` (ten; none where secret), ``most_given`` of them, ``answer_type``."""

    name = "vqa"
    model_class = ViltaForVisualQuestionAnswering
    settings_class = VqaSettings
    settings: VqaSettings
    answers_in = "the annotation file beside the questions, or a CSV's column answer"

    @classmethod
    def rows(cls, path: str, settings: TaskSettings) -> list[Row]:
        """Read VQAv2's question file, easy-VQA's folder, or a CSV of image, question, answer."""
        if is_csv(path):
            return _csv_rows(path)
        place = Path(path)
        if place.is_dir():
            place = _question_file(place)
        content = read_json(place)
        if isinstance(content, list):
            return _easy_rows(place, content)
        return _official_rows(place, content)

    @classmethod
    def scenes(cls, named: ScenesName, settings: TaskSettings) -> list[Row]:
        """Ask about the built-in pictures."""
        rows: list[Row] = []
        for index in range(named.first, named.first + named.count):
            scene = make_scene(named.seed, index)
            for q in questions(scene, Draws(named.seed, index, stream=20), PER_SCENE):
                row = _row(f"{scene.image_id}-{len(rows)}", scene.image_id, q.text, [q.answer])
                rows.append(row | {"kind": q.kind})
        return rows

    @classmethod
    def labels(cls, items: Any, settings: VqaSettings) -> list[str]:
        """Return the answers given often enough in training, most frequent first.

        They are normalised, but where annotators who all agree mostly spell one otherwise: the
        evaluator compares their answer as it is.
        """
        counts: Counter[str] = Counter()
        agreed: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for given, answers in zip(items.rows["most_given"], items.rows["answers"], strict=True):
            if given and (answer := normalise_answer(given)):
                counts[answer] += 1
                if len(set(answers)) == 1:
                    agreed[normalise_answer(answers[0])][answers[0].strip()] += 1
        kept = [answer for answer, count in counts.items() if count >= settings.min_answers]
        if not kept:
            raise ValueError(
                f"{items.name}: no answer is given {settings.min_answers} times; "
                "lower --settings.min-answers"
            )
        kept.sort(key=lambda answer: (-counts[answer], answer))
        return [agreed[a].most_common(1)[0][0] if agreed[a] else a for a in kept]

    @classmethod
    def unanswered(cls, items: Any) -> list[str]:
        """Return the ids of the questions without answers."""
        pairs = zip(items.rows["id"], items.rows["answers"], strict=True)
        return [name for name, answers in pairs if not answers]

    def check(self, items: Examples | PairItems) -> None:
        """Nothing: an answer outside of the vocabulary is just not to be had."""

    def target(self, row: Row) -> Tensor:
        """Return the soft score of each answer, ``[A]``; zeros where the answers are secret."""
        scores = torch.zeros(len(self.known))
        places = self._places
        for answer, score in soft_scores(row["answers"]).items():
            if answer in places:
                scores[places[answer]] = score
        return scores

    @cached_property
    def _places(self) -> dict[str, int]:
        """Number of each label by its normalised spelling."""
        return {normalise_answer(label): number for label, number in self.known.items()}

    def forward(self, batch: ExampleBatch) -> Losses:
        """Binary cross-entropy of every answer, summed over answers (METER, ViLT)."""
        logits = self.logits(batch).float()
        loss = F.binary_cross_entropy_with_logits(logits, batch.targets) * logits.shape[1]
        chosen = batch.targets.gather(1, logits.argmax(dim=1, keepdim=True))
        return Losses(total=loss, metrics={"accuracy": chosen.mean().detach()})

    def evaluate(self, predictions: list[str], items: Any) -> dict[str, float]:
        """Return VQA accuracy in percent: over all, and by type of answer."""
        self.require_answers(items)
        answers: list[list[str]] = list(items.rows["answers"])
        metrics = mean_vqa_accuracy(predictions, answers, list(items.rows["answer_type"]))
        by_type = {f"accuracy/{name}": v for name, v in metrics.items() if name != "overall"}
        right = [vqa_accuracy(p, a) == 1 for p, a in zip(predictions, answers, strict=True)]
        return {"accuracy": metrics["overall"], **by_type, **by_kind(items, right)}

    def submission(self, predictions: list[str], items: Any) -> str:
        """Return the result file that the evaluation server takes."""
        result = [
            {"question_id": int(i) if i.isdigit() else i, "answer": answer}
            for i, answer in zip(items.rows["id"], predictions, strict=True)
        ]
        return json.dumps(result)


def _row(name: str, image: str, question: str, answers: list[str], answer_type: str = "") -> Row:
    """Return an item; ``ValueError`` for an answer of which normalising leaves nothing.

    That fewer than ten annotators agree does not make their spelling exact, as the evaluator has
    it, so their answers are normalised here.
    """
    if len(answers) < ANNOTATORS:
        normalised = [normalise_answer(answer) for answer in answers]
        if "" in normalised:
            raise ValueError(
                f"the answer {answers[normalised.index('')]!r} to question {name} is empty once it "
                "is normalised by VQA's rules (articles and punctuation go); spell it out, or use "
                "the task classification"
            )
        answers = normalised * ANNOTATORS if len(normalised) == 1 else normalised
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
    found = sorted(folder.glob(f"*{QUESTIONS}")) or sorted(folder.glob("questions.json"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or f"none that ends in {QUESTIONS}"
        raise ValueError(f"{folder}: name one question file; there are: {names}")
    return found[0]


def _official_rows(path: Path, content: Any) -> list[Row]:
    """VQAv2: https://visualqa.org/download.html."""
    questions = list_field(content, "questions", path)
    # The field of the published files; a file of one's own may tell it by its name alone.
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
        row = _row(
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


def _easy_rows(path: Path, content: list[Any]) -> list[Row]:
    """easy-VQA (https://github.com/vzhou842/easy-VQA): [question, answer, image number]."""
    if not all(isinstance(item, list) and len(item) == 3 for item in content):
        raise ValueError(f"{path} is no list of [question, answer, image]")
    return [
        _row(str(number), f"{image}.png", str(question), [str(answer)])
        for number, (question, answer, image) in enumerate(content)
    ]


def _csv_rows(path: str) -> list[Row]:
    """A user's own: columns image, question, answer."""
    return [
        _row(str(number), line["image"], line["question"], list(filter(None, [line["answer"]])))
        for number, line in enumerate(csv_lines(path, ("image", "question", "answer")))
    ]
