"""Image-and-text classification of one's own: a CSV with the columns image, text and label.

The worked example of docs/new-task.md. Hateful memes are such a task: neither the picture nor
the words alone determine the label.
"""

from __future__ import annotations

from typing import Any

from vilta.config.finetune import TaskSettings
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.csv_lines import csv_lines
from vilta.tasks.label_task import LabellingTask

COLUMNS = ("image", "text")


class Classification(LabellingTask):
    """Rows: ``label``. The labels are those that occur in training, sorted."""

    name = "classification"
    answers_in = "the column label"

    @classmethod
    def rows(cls, path: str, settings: TaskSettings) -> list[ItemRow]:
        """Read a CSV; images are named from its folder on."""
        return [
            {
                "id": str(number),
                "images": [line["image"]],
                "texts": [line["text"]],
                "label": line["label"],
            }
            for number, line in enumerate(csv_lines(path, COLUMNS, answer="label"))
        ]

    @classmethod
    def labels(cls, items: Any, settings: TaskSettings) -> list[str]:
        """Return the labels of the training items."""
        found = sorted(set(items.rows["label"]))
        if len(found) < 2:
            raise ValueError(
                f"{items.name}: all labels are {found[0]!r}; there must be two or more"
            )
        return found
