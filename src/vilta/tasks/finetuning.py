"""What the downstream tasks have in common. One file a task holds all the rest of it.

docs/new-task.md shows how to write one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.config import DataConfig
from vilta.config.finetune import TaskSettings
from vilta.data.examples import ExampleCollator, ExampleDataset, Examples, PairItems, examples_from
from vilta.data.images import Images, find_images
from vilta.data.sources import (
    ScenesName,
    SourceOptions,
    joined_sources,
    named_options,
    scenes_named,
)
from vilta.model import ViltaProcessor
from vilta.model.pretrained import ViltaPreTrainedModel
from vilta.tasks.base import Task

ItemRow = dict[str, Any]
"""One item: ``id`` (str), ``images`` and ``texts`` (lists of str), and what the task adds."""


class FinetuningTask(Task):
    """A downstream task: its reader, its model, its loss and its metric.

    A subclass writes ``rows`` (and ``scenes``), ``target``, ``forward``, ``predict`` and
    ``evaluate``.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[ViltaPreTrainedModel]]
    selection_metric: ClassVar[str]
    """Figure of ``evaluate`` whose largest value marks the best checkpoint."""
    needs_head: ClassVar[bool] = True
    """Whether a pre-trained model must be fine-tuned before it can do the task at all."""
    trainable: ClassVar[bool] = True
    """Whether there is anything to fine-tune; else it is only measured."""
    trained_heads: ClassVar[frozenset[str]] = frozenset()
    """Those of ``contrastive`` and ``matching``, which compare images and texts, that it trains."""
    settings_class: ClassVar[type[TaskSettings]] = TaskSettings
    """What ``settings`` are of; a task with settings of its own extends ``TaskSettings``."""
    answers_in: ClassVar[str] = ""
    """Where a file has its answers, for the message about those that are missing."""
    settings: TaskSettings

    def __init__(
        self,
        model: ViltaPreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: TaskSettings,
        items: Examples | PairItems,
    ) -> None:
        """Build the task on a model; ``items`` are those it is trained or evaluated on."""
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.check(items)

    @classmethod
    def rows(cls, path: str, settings: Any) -> list[ItemRow]:
        """Read the items of one file or folder, as it is published."""
        raise NotImplementedError

    @classmethod
    def scenes(cls, named: ScenesName, settings: Any) -> list[ItemRow]:
        """Make items about the built-in pictures."""
        raise ValueError(f"{cls.name} has no items about scenes; name a file or a folder")

    @classmethod
    def labels(cls, items: Examples | PairItems, settings: Any) -> list[str]:
        """Return the labels that a new head learns, from the training items; none by default."""
        return []

    @classmethod
    def read(cls, path: str, images: str, settings: Any) -> Examples | PairItems:
        """Read the items of ``path``, several joined by ``+``, and find their images.

        Raises ``ValueError`` in one line that says what is wrong.
        """
        if not path:
            raise ValueError(
                f"no data were named for {cls.name} (--data.train, of vilta evaluate: --data); see "
                "docs/tasks.md"
            )
        rows: list[ItemRow] = []
        places: dict[str, str] = {}
        for part in joined_sources(path):
            if (named := scenes_named(part)) is not None:
                rows += cls.scenes(named, settings)
                places[f"scenes:{named.size}"] = part
                continue
            place = named_options(part, SourceOptions())[0]
            if not Path(place).exists():
                raise ValueError(f"no such file or folder: {place}")
            rows += cls.rows(part, settings)
            places[place if Path(place).is_dir() else os.path.dirname(place) or "."] = part
        if len(places) > 1 and not images:  # each folder may have its own 0.png
            first, second, *_ = places.values()
            raise ValueError(
                f"{first} and {second} are in different folders; --data.images (of vilta evaluate: "
                "--images, of vilta ablate: --edits-images) must name one that has the images of "
                "both"
            )
        return examples_from(rows, cls.place(find_images(images or next(iter(places)))), path)

    @classmethod
    def place(cls, images: Images) -> Images:
        """Return where the task's keys lead to; the images as they are by default."""
        return images

    def check(self, items: Examples | PairItems) -> None:
        """Raise ``ValueError`` if the model cannot answer these items; nothing by default."""

    @classmethod
    def selection_metric_for(cls, items: Examples | PairItems) -> str:
        """Return the metric on these items whose maximum marks the best checkpoint."""
        return cls.selection_metric

    @classmethod
    def remark(cls, items: Examples | PairItems) -> str:
        """Return what the reader of the metrics on these items must know; nothing by default."""
        return ""

    @classmethod
    def unanswered(cls, items: Any) -> list[str]:
        """Return the ids of the items without an answer, as test servers have; none by default."""
        return []

    @classmethod
    def require_answers(cls, items: Examples | PairItems) -> None:
        """Refuse items without an answer: there is nothing to learn from them, or to measure."""
        if lacking := cls.unanswered(items):
            raise ValueError(
                f"{len(lacking)} of {len(items)} items of {items.name} have no answer, the first: "
                f"{lacking[0]}; add {cls.answers_in}: only vilta evaluate --submission does without"
            )

    def target(self, row: ItemRow) -> Tensor:
        """Return what is to be learnt from an item, of one shape for all, answered or not."""
        raise NotImplementedError

    def dataset(
        self, items: Any, data: DataConfig, seed: int, *, train: bool, blind: bool = False
    ) -> Any:
        """Return the samples of the items."""
        return ExampleDataset(items, self.target, data, seed, train, blind)

    def collator(self, max_text_tokens: int) -> Callable[[Any], Any]:
        """Return what makes batches of samples."""
        return ExampleCollator(self.tokenizer, max_text_tokens)

    def predict(self, loader: Iterable[Any]) -> Any:
        """Return what the model makes of the items of ``loader``, in the order of the table."""
        raise NotImplementedError

    def evaluate(self, predictions: Any, items: Any) -> dict[str, float]:
        """Return the task's metrics; ``predictions`` are what ``predict`` made of ``items``."""
        raise NotImplementedError

    def submission(self, predictions: Any, items: Any) -> str:
        """Return the answers in the format of the official server or evaluator, if it has one."""
        raise NotImplementedError

    def save_pretrained(self, folder: str) -> None:
        """Write the model and its processor, to be loaded by ``from_pretrained``."""
        self.model.save_pretrained(folder)
        ViltaProcessor.from_config(self.model.config, self.tokenizer).save_pretrained(folder)
