"""NLVR2: is a sentence true of two photographs? (https://lil.nlp.cornell.edu/nlvr/)"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from vilta.config.finetune import TaskSettings
from vilta.data.sources import ScenesName
from vilta.metrics.nlvr2 import nlvr2_metrics, sentence_of
from vilta.model import ViltaForVisualReasoning
from vilta.scenes import Draws, scene_pair, statements
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.json_lines import field, json_items, list_field
from vilta.tasks.label_task import LabellingTask, by_kind

LABELS = ["False", "True"]
"""As the official files spell them."""
PER_PAIR = 2
"""Statements about one pair of scenes (our choice)."""


class VisualReasoning(LabellingTask):
    """Rows: ``label`` and the official ``id``, of which all but the third part is the sentence."""

    name = "nlvr2"
    model_class = ViltaForVisualReasoning
    answers_in = "the field label"

    @classmethod
    def rows(cls, path: str, settings: TaskSettings) -> list[ItemRow]:
        """Read ``train.json``, ``dev.json``, ...: JSON lines; the identifier names the images.

        ALBEF's lists name the images themselves.
        """
        items = json_items(Path(path))
        if items and "images" in items[0]:
            return _listed_rows(items, path)
        return [_row(item, path) for item in items]

    @classmethod
    def scenes(cls, named: ScenesName, settings: TaskSettings) -> list[ItemRow]:
        """Make statements about pairs of the built-in pictures."""
        rows: list[ItemRow] = []
        for index in range(named.first, named.first + named.count):
            left, right = scene_pair(named.seed, index)
            made = statements(left, right, Draws(named.seed, index, stream=21), PER_PAIR)
            for number, statement in enumerate(made):
                rows.append(
                    {
                        "id": f"scenes-{index}-0-{number}",
                        "images": [left.image_id, right.image_id],
                        "texts": [statement.text],
                        "label": LABELS[statement.label],
                        "kind": statement.kind,
                    }
                )
        return rows

    @classmethod
    def labels(cls, items: Any, settings: TaskSettings) -> list[str]:
        """Return False and True."""
        return LABELS

    def evaluate(self, predictions: list[str], items: Any) -> dict[str, float]:
        """Return accuracy and consistency in percent, as the official script does."""
        self.require_answers(items)
        truth = [label == "True" for label in items.rows["label"]]
        answers = [prediction == "True" for prediction in predictions]
        right = [a == b for a, b in zip(answers, truth, strict=True)]
        metrics = nlvr2_metrics(list(items.rows["id"]), answers, truth)
        return metrics | by_kind(items, right)


def _identifier(item: dict[str, Any], path: str) -> str:
    name = str(field(item, "identifier", path))
    try:
        sentence_of(name)
    except ValueError as error:  # told now, not when the run is measured
        raise ValueError(f"{path}: {error}") from None
    return name


def _row(item: dict[str, Any], path: str) -> ItemRow:
    name = _identifier(item, path)
    images = name.rpartition("-")[0]  # split-set-pair
    return {
        "id": name,
        "images": [f"{images}-img0.png", f"{images}-img1.png"],
        "texts": [str(field(item, "sentence", path))],
        "label": str(item.get("label", "")).capitalize(),  # secret in a hidden test set
    }


def _listed_rows(items: list[dict[str, Any]], path: str) -> list[ItemRow]:
    """ALBEF's ``nlvr_dev.json``: sentence, label and two images, whose names give the pair.

    Photos of one's own have other names: then the ``identifier`` says which sentences are the same
    one, as in the official files, or without it, their text.
    """
    rows: list[ItemRow] = []
    sentences: dict[str, dict[str, int]] = {}
    for number, item in enumerate(items):
        images = list(map(str, list_field(item, "images", path)))
        if len(images) != 2:
            raise ValueError(f"{path}: an item has {len(images)} images, where two are compared")
        sentence = str(field(item, "sentence", path))
        name = _identifier(item, path) if "identifier" in item else ""
        pair, _, left = PurePosixPath(images[0]).stem.rpartition("-")
        if left != "img0" or pair.count("-") != 2:  # not split-set-pair
            pair = f"list-0-{number}"
        known = sentences.setdefault(pair.rpartition("-")[0], {})
        rows.append(
            {
                "id": name or f"{pair}-{known.setdefault(sentence, len(known))}",
                "images": images,
                "texts": [sentence],
                "label": str(item.get("label", "")).capitalize(),
            }
        )
    return rows
