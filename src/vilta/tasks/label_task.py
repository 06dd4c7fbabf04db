"""Tasks that give one label to a text about one or more images: loss and accuracy."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vilta.data.examples import Examples
from vilta.model import ViltaForImageTextClassification
from vilta.tasks.finetuning import FinetuningTask, ItemRow
from vilta.types import ExampleBatch, Losses

NO_LABEL = -100
"""The target of an item without a label, which ``cross_entropy`` leaves out."""


class LabellingTask(FinetuningTask):
    """Rows have a ``label`` (str, empty where it is not known); the model numbers the labels."""

    model: ViltaForImageTextClassification
    model_class = ViltaForImageTextClassification
    selection_metric = "accuracy"
    answers_in = "the labels"

    @classmethod
    def unanswered(cls, items: Any) -> list[str]:
        """Return the ids of the items without a label."""
        pairs = zip(items.rows["id"], items.rows["label"], strict=True)
        return [name for name, label in pairs if not label]

    def check(self, items: Any) -> None:
        """Refuse items whose labels the model does not know."""
        labels = filter(None, dict.fromkeys(items.rows["label"]))
        unknown = [label for label in labels if label not in self.known]
        if unknown:
            names = ", ".join(list(self.known)[:10])
            raise ValueError(
                f"{items.name}: label {unknown[0]!r} is not among the model's labels ({names})"
            )

    @property
    def known(self) -> dict[str, int]:
        """Number of each label."""
        return self.model.config.label2id

    def target(self, row: ItemRow) -> Tensor:
        """Return the label's number."""
        return torch.tensor(self.known[row["label"]] if row["label"] else NO_LABEL)

    def forward(self, batch: ExampleBatch) -> Losses:
        """Cross-entropy of the labels."""
        logits = self.logits(batch)
        loss = F.cross_entropy(logits.float(), batch.targets)
        right = (logits.argmax(dim=1) == batch.targets).float().mean()
        return Losses(total=loss, metrics={"accuracy": right})

    def logits(self, batch: ExampleBatch) -> Float[Tensor, "B A"]:
        """Score the labels of each item; each image of the batch is encoded once."""
        vilta, mask = self.model.vilta, batch.attention_mask
        text_states = vilta.encode_text(batch.input_ids, mask)
        image_states = vilta.encode_image(batch.pixel_values)
        return self.model.classify(text_states, mask, image_states, batch.image_index)

    @torch.no_grad()
    def predict(self, loader: Iterable[ExampleBatch]) -> list[str]:
        """Return the likeliest label of each item, in the order of the table."""
        names: dict[int, str] = self.model.config.id2label
        found: list[str] = []
        for batch in loader:
            best = self.logits(batch.to(self.model.device)).argmax(dim=1)
            found += [names[i] for i in best.tolist()]
        return found

    def evaluate(self, predictions: list[str], items: Any) -> dict[str, float]:
        """Return the accuracy in percent, of all items and by label."""
        self.require_answers(items)
        right = [a == b for a, b in zip(items.rows["label"], predictions, strict=True)]
        return label_metrics(predictions, items) | by_kind(items, right)

    def submission(self, predictions: list[str], items: Any) -> str:
        """Return the lines ``id,label``, which NLVR2's official script reads."""
        file = io.StringIO()
        lines = zip(items.rows["id"], predictions, strict=True)
        csv.writer(file, lineterminator="\n").writerows(lines)
        return file.getvalue()


def label_metrics(predictions: list[str], examples: Examples) -> dict[str, float]:
    """Return accuracy in percent, over all and by true label, and that of the largest class."""
    labels: list[str] = list(examples.rows["label"])
    right = Counter(label for label, p in zip(labels, predictions, strict=True) if label == p)
    counts = Counter(labels)
    by_label = {f"accuracy/{name}": 100 * right[name] / n for name, n in sorted(counts.items())}
    return {
        "accuracy": 100 * sum(right.values()) / len(labels),
        "majority": 100 * max(counts.values()) / len(labels),
        **by_label,
    }


def by_kind(examples: Examples, right: list[bool]) -> dict[str, float]:
    """Return the share of right answers in percent for each ``kind``, where rows have one."""
    if "kind" not in examples.rows.column_names:
        return {}
    told = [(k, hit) for k, hit in zip(examples.rows["kind"], right, strict=True) if k is not None]
    total, hits = Counter(kind for kind, _ in told), Counter(kind for kind, hit in told if hit)
    return {f"kind/{kind}": 100 * hits[kind] / n for kind, n in sorted(total.items())}
