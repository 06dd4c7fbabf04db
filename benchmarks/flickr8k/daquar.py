"""DAQUAR as a task: questions that people asked about photos of rooms, answered with words.

    vilta finetune daquar.yaml --data.train train.csv --data.images daquar/images ...

Rows come from a CSV ``image,question,answer``; several answers to a question are joined by ``, ``
and have no order. Each list that training gives often enough is a class, as in the published
systems that classify (stacked attention networks, arXiv 1511.02274).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.flickr8k.wups import exact_match, wordnet_similarity, wups
from torch import Tensor

from vilta.config.finetune import TaskSettings
from vilta.config.ranges import Count
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.csv_lines import csv_lines
from vilta.tasks.label_task import NO_LABEL, LabellingTask

SEPARATOR = ", "
THRESHOLDS = (0.9, 0.0)
"""Of WUPS, as published."""


@dataclass(frozen=True, kw_only=True)
class DaquarSettings(TaskSettings):
    """Settings of DAQUAR."""

    min_answers: Count = 2
    """Answers given less often in training do not become a class; their questions teach nothing."""


class Daquar(LabellingTask):
    """Rows: ``label``, the words of the answer in alphabetical order."""

    name = "daquar"
    settings_class = DaquarSettings
    settings: DaquarSettings

    @classmethod
    def rows(cls, path: str, settings: Any) -> list[ItemRow]:
        """Read a CSV with the columns image, question and answer."""
        return [
            {
                "id": str(number),
                "images": [line["image"]],
                "texts": [line["question"]],
                "label": SEPARATOR.join(sorted(set(words_of(line["answer"])))),
            }
            for number, line in enumerate(csv_lines(path, ("image", "question", "answer")))
        ]

    @classmethod
    def labels(cls, items: Any, settings: DaquarSettings) -> list[str]:
        """Return the answers given often enough in training, most frequent first."""
        counts = Counter(items.rows["label"])
        kept = [answer for answer, count in counts.items() if count >= settings.min_answers]
        if not kept:
            raise ValueError(
                f"{items.name}: no answer is given {settings.min_answers} times; "
                "lower --settings.min-answers"
            )
        return sorted(kept, key=lambda answer: (-counts[answer], answer))

    def check(self, items: Any) -> None:
        """Accept everything: an answer without a class counts as wrong."""

    def target(self, row: ItemRow) -> Tensor:
        """Return the number of the answer; nothing is learnt from one without a class."""
        return torch.tensor(self.known.get(row["label"], NO_LABEL))

    @classmethod
    def remark(cls, items: Any) -> str:
        """Return what is missing for WUPS, if anything is."""
        try:
            wordnet_similarity()
        except ValueError as error:
            return str(error)
        return ""

    def evaluate(self, predictions: list[str], items: Any) -> dict[str, float]:
        """Return accuracy and, where WordNet is installed, WUPS, in percent."""
        self.require_answers(items)
        scores = answer_scores(predictions, list(items.rows["label"]))
        return {name: 100 * sum(each) / len(each) for name, each in scores.items()}

    def submission(self, predictions: list[str], items: Any) -> str:
        """Return the answers as a JSON list, in the order of the questions."""
        return json.dumps(predictions)


def words_of(answer: str) -> list[str]:
    """Return the words of an answer list."""
    return [word for word in map(str.strip, answer.split(",")) if word]


def answer_scores(given: list[str], truth: list[str]) -> dict[str, list[float]]:
    """Return each answer's accuracy and, where WordNet is installed, its WUPS, in [0, 1]."""
    pairs = [(words_of(t), words_of(g)) for t, g in zip(truth, given, strict=True)]
    scores = {"accuracy": [exact_match(*pair) for pair in pairs]}
    try:
        similarity = wordnet_similarity()
    except ValueError:  # told by the task's remark
        return scores
    for threshold in THRESHOLDS:
        name = f"WUPS {threshold}"
        scores[name] = [wups(*pair, similarity, threshold) for pair in pairs]
    return scores
