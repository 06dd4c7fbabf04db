"""The items of downstream tasks: a table, its images, samples and batches.

The same contract as for pairs: a sample is a pure function of (seed, epoch, row), and the crop of
an image one of (seed, epoch, image), so that a batch needs an image once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.config import DataConfig
from vilta.data.images import Images, PairImages, require_images
from vilta.data.order import Key
from vilta.data.samples import ImageMaker
from vilta.data.sources import load_pairs
from vilta.data.sources.base import valid_text
from vilta.seeds import generator_for
from vilta.types import Example, ExampleBatch

COMPARED = 100
"""Images whose bytes are compared where two sets use the same names (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a task reads: ``rows`` with the columns of ``COLUMNS`` plus those of the task."""

    rows: datasets.Dataset
    images: Images
    name: str
    """Name of the data in error messages."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for data without items or with missing images."""
        if len(self.rows) == 0:
            raise ValueError(f"{self.name}: no items")
        missing = [c for c in COLUMNS if c not in self.rows.column_names]
        assert not missing, f"a reader left out {missing}"
        require_images(self.images, self.image_keys())

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def image_keys(self) -> list[str]:
        """Return the different images that the items ask about, in order."""
        return list(dict.fromkeys(chain.from_iterable(self.rows["images"])))


COLUMNS = ("id", "images", "texts")
"""An item's name (str), the keys of its images and its texts (lists of str)."""


class PairItems:
    """A pair table as the items of a task: images, each with its captions."""

    def __init__(self, rows: datasets.Dataset, name: str) -> None:
        self.rows, self.name = rows, name
        self.images = PairImages(rows, name)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def image_keys(self) -> list[str]:
        """Return the image ids."""
        return list(self.rows["image_id"])


def read_pairs(path: str, images: str) -> PairItems:
    """Return the items of any source of pairs; ``ValueError`` in one line if there are none.

    Pairs hold their images, so ``images`` must be empty.
    """
    if images:
        raise ValueError(f"{path} contains its own images; drop --data.images (--images)")
    return PairItems(load_pairs(path), path)


def shared_images(first: Examples | PairItems, second: Examples | PairItems) -> list[str]:
    """Return the images of ``second`` that are among those of ``first``.

    Names alone would not do (every folder has its 0.png), so of the names in both up to
    ``COMPARED`` images, evenly spaced, are compared byte by byte.
    """
    known = set(first.image_keys())
    both = [key for key in second.image_keys() if key in known]
    looked = both[:: max(1, len(both) // COMPARED)]
    same = [key for key in looked if first.images.read(key) == second.images.read(key)]
    return both if len(same) == len(looked) else same


def examples_from(rows: list[dict[str, Any]], images: Images, name: str) -> Examples:
    """Return the examples of plain rows, held as a table; ``ValueError`` if there are none.

    A column that only some rows have is None in the others; texts become valid Unicode.
    """
    if not rows:
        raise ValueError(f"{name}: no items")
    columns = dict.fromkeys(chain.from_iterable(rows))
    content = {column: [_valid(row.get(column)) for row in rows] for column in columns}
    return Examples(rows=datasets.Dataset.from_dict(content), images=images, name=name)


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    return [_valid(each) for each in value] if isinstance(value, list) else value


class ExampleDataset(ImageMaker):
    """Samples of examples by (epoch, row).

    An item with an unreadable image is replaced by another one in training; in evaluation, where
    every item counts, its image is blank. Both are logged. ``target`` makes a row's target;
    ``blind`` shows blank images throughout, which measures what the text alone gives away.
    """

    def __init__(
        self,
        examples: Examples,
        target: Callable[[dict[str, Any]], Tensor],
        config: DataConfig,
        seed: int,
        train: bool,
        blind: bool = False,
    ) -> None:
        super().__init__(config, seed, train, len(examples))
        self.examples, self.target, self.blind = examples, target, blind

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.examples)

    def __getitem__(self, key: Key) -> Example:
        """Return the sample of (epoch, row)."""
        epoch, _ = key

        def make(row: int, shown: bool = True) -> Example:
            return self._example(row, epoch, f"{self.examples.name}#{row}", blind=not shown)

        def describe(row: int) -> tuple[str, str]:
            return f"{self.examples.name}#{row}", self.examples.rows[row]["id"]

        return self.first_usable(key, make, describe, lambda row: make(row, shown=False))

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how many characters the texts of these samples have."""
        texts = self.examples.rows.select_columns(["texts"])[[row for _, row in keys]]["texts"]
        return [sum(map(len, group)) for group in texts]

    def _example(self, row: int, epoch: int, name: str, blind: bool = False) -> Example:
        content = self.examples.rows[row]
        pixels = []
        for key in content["images"]:
            if blind or self.blind:
                pixels.append(self.blank())
            else:
                random = generator_for(self.seed, "crop", epoch, key)
                pixels.append(self.pixels(key, partial(self.examples.images.read, key), random))
        self.good()
        return Example(
            pixels=tuple(pixels),
            image_keys=tuple(content["images"]),
            texts=tuple(content["texts"]),
            target=self.target(content),
            index=row,
            name=name,
        )


class ExampleCollator:
    """Makes an :class:`ExampleBatch` of samples; an image shared by several items occurs once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_text_tokens: int) -> None:
        self.tokenizer, self.max_text_tokens = tokenizer, max_text_tokens

    def __call__(self, samples: Sequence[Example]) -> ExampleBatch:
        """Return the batch, its texts padded on the right to the longest of them."""
        places: dict[str, int] = {}
        pixels: list[Tensor] = []
        for sample in samples:
            for key, image in zip(sample.image_keys, sample.pixels, strict=True):
                if places.setdefault(key, len(pixels)) == len(pixels):
                    pixels.append(image)
        texts = self.tokenizer(
            [text for sample in samples for text in sample.texts],
            padding="longest",
            padding_side="right",
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        owners = [row for row, sample in enumerate(samples) for _ in sample.texts]
        return ExampleBatch(
            pixel_values=torch.stack(pixels),
            image_index=torch.tensor([[places[key] for key in s.image_keys] for s in samples]),
            input_ids=texts["input_ids"],
            attention_mask=texts["attention_mask"],
            text_to_item=torch.tensor(owners),
            targets=torch.stack([sample.target for sample in samples]),
            rows=torch.tensor([sample.index for sample in samples]),
            names=tuple(sample.name for sample in samples),
        )
