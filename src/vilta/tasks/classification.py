"""Image-and-text classification of one's own: a CSV with the columns image, text and label.

The worked example of docs/new-task.md. Hateful memes are such a task: neither the picture nor
the words alone tell the label.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from vilta.config_finetune import TaskConfig
from vilta.tasks.finetuning import Row
from vilta.tasks.labelling import LabellingTask

COLUMNS = ("image", "text", "label")


class Classification(LabellingTask):
    """Rows: ``label``. The labels are those that occur in training, sorted."""

    name = "classification"
    answers_in = "the column label"

    @classmethod
    def rows(cls, path: str, settings: TaskConfig) -> list[Row]:
        """Read a CSV; images are named from its folder on."""
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (table.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} has no column {missing[0]!r}; it needs image,text,label")
            return [
                {
                    "id": str(number),
                    "images": [row["image"]],
                    "texts": [row["text"]],
                    "label": row["label"],
                }
                for number, row in enumerate(table)
            ]

    @classmethod
    def labels(cls, items: Any, settings: TaskConfig) -> list[str]:
        """Return the labels of the training items."""
        found = sorted(set(items.rows["label"]))
        if len(found) < 2:
            raise ValueError(
                f"{items.name}: all labels are {found[0]!r}; there must be two or more"
            )
        return found
