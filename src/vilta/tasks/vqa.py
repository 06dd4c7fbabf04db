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
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vilta.config.finetune import TaskSettings
from vilta.config.ranges import Count
from vilta.data.examples import Examples, PairItems
from vilta.data.sources import ScenesName
from vilta.metrics.vqa_accuracy import (
    mean_vqa_accuracy,
    normalise_answer,
    soft_scores,
    vqa_accuracy,
)
from vilta.model import ViltaForVisualQuestionAnswering
from vilta.scenes import Draws, make_scene, questions
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.question_files import question_row, read_questions
from vilta.tasks.label_task import LabellingTask, by_kind
from vilta.types import ExampleBatch, Losses

PER_SCENE = 5
"""Questions about one scene (our choice)."""


@dataclass(frozen=True, kw_only=True)
class VqaSettings(TaskSettings):
    """Settings of visual question answering."""

    min_answers: Count = 9
    """Answers given less often in training are left out (9 leaves the usual 3,129 of VQAv2's
    train2014 and val2014 together, fewer of train2014 alone)."""


class VisualQuestionAnswering(LabellingTask):
    """Rows: ``answers`` (ten or more; none if secret), ``most_given`` of them, ``answer_type``."""

    name = "vqa"
    model_class = ViltaForVisualQuestionAnswering
    settings_class = VqaSettings
    settings: VqaSettings
    answers_in = "the annotation file beside the questions, or a column answer in the file itself"

    @classmethod
    def rows(cls, path: str, settings: TaskSettings) -> list[ItemRow]:
        """Read questions in one of the layouts of ``formats.question_files``."""
        return read_questions(path)

    @classmethod
    def scenes(cls, named: ScenesName, settings: TaskSettings) -> list[ItemRow]:
        """Ask about the built-in pictures."""
        rows: list[ItemRow] = []
        for index in range(named.first, named.first + named.count):
            scene = make_scene(named.seed, index)
            for q in questions(scene, Draws(named.seed, index, stream=20), PER_SCENE):
                row = question_row(
                    f"{scene.image_id}-{len(rows)}", scene.image_id, q.text, [q.answer]
                )
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
        if not counts:
            raise ValueError(
                f"{items.name}: nothing is left of any answer once VQA's rule has normalised it, "
                "which drops articles and punctuation"
            )
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
        """Accept everything: answers outside of the vocabulary score zero."""

    def target(self, row: ItemRow) -> Tensor:
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
