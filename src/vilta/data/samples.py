"""Rows of the pair table to samples, under the determinism contract.

The caption drawn and the crop are pure functions of (seed, epoch, row): samples are the same for
any number of loader processes, and a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import datasets
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info
from xxhash import xxh3_64_intdigest

from vilta.config import DataConfig
from vilta.data.augmentation import training_short_side, training_tensor
from vilta.data.order import Key
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import bounded_bytes, decode_image, decode_pixels
from vilta.seeds import derived, generator_for, stable_hash
from vilta.types import Sample

T = TypeVar("T")

log = logging.getLogger("vilta.data")

COLUMNS = ("image", "captions", "image_id", "source")
"""The columns of a pair table."""
BAD_SHARE, BAD_COUNT = 0.05, 20
"""A run stops once more samples than both of these were bad (our choice)."""
BLANK = 127
"""Grey level of the image shown in place of a missing one."""
SLOTS = 65
"""Counters: one for the main process, the others for its loader processes."""


@runtime_checkable
class Samples(Protocol):
    """A map-style data set whose samples are pure functions of (epoch, row)."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Key) -> Sample: ...

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how long the captions of these samples are, without reading images."""
        ...


class BadData(ValueError):
    """A sample that cannot be used under ``strict``, or too many of them."""


class ImageMaker:
    """Turns image bytes into pixels, for training or evaluation, and counts bad images.

    In training the crop is drawn; in evaluation it is the centre, and a bad one of the ``rows`` is
    shown as a blank image. Bad rows are logged by name and counted; :class:`BadData` is raised
    instead under ``config.strict``, and when there are too many.
    """

    def __init__(self, config: DataConfig, seed: int, train: bool, rows: int = 0) -> None:
        self.config, self.seed, self.train, self.rows = config, seed, train, rows
        self.short_side = training_short_side(
            config.image_size, config.augmentation if train else "none", config.min_crop
        )
        # Shared with the loader processes; each writes its own row, so no lock is needed.
        self._counts = torch.zeros(SLOTS, 2, dtype=torch.int64).share_memory_()
        self._blank = torch.zeros(0 if train else rows, dtype=torch.bool).share_memory_()
        self._known_bad: set[str] = set()
        self._decoded: dict[int | str, Any] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many samples were read so far, and how many of them were bad, in all processes."""
        read, bad = self._counts.sum(dim=0).tolist()
        return {"read": read, "bad": bad}

    @property
    def blanks(self) -> int:
        """How many rows were shown as a blank image in evaluation, each counted once."""
        return int(self._blank.sum())

    def pixels(
        self, key: int | str, read: Callable[[], bytes], random: np.random.Generator
    ) -> UInt8[Tensor, "3 S S"]:
        """Return an image's pixels; ``key`` identifies it in the cache.

        Raises ``ValueError`` in one line if it cannot be used.
        """
        config = self.config
        image: Any = self._decoded.get(key)  # pixels in training, an image in evaluation
        if image is None:
            decode = decode_pixels if self.train else decode_image
            image = decode(read(), self.short_side)
        if config.cache:
            self._decoded[key] = image
        if not self.train:
            return evaluation_tensor(image, config.image_size)
        return training_tensor(
            image, config.image_size, config.augmentation, config.min_crop, random
        )

    def first_usable(
        self,
        key: Key,
        make: Callable[[int], T],
        describe: Callable[[int], tuple[str, str]],
        blank: Callable[[int], T],
    ) -> T:
        """Return ``make(row)`` for the row of ``key``.

        If that raises ``ValueError``, the row is counted as bad under the name and the source that
        ``describe(row)`` gives; in training another row takes its place, a pure function of the
        seed and the key, and in evaluation, where every row counts, ``blank(row)`` does.
        """
        epoch, index = key
        row, attempt = index, 0
        while True:
            try:
                return make(row)
            except ValueError as error:
                self.bad(row, *describe(row), str(error))
            if not self.train:
                return blank(row)
            attempt += 1
            row = derived(self.seed, "replace", epoch, index, attempt) % self.rows

    def good(self) -> None:
        """Count a sample that could be made."""
        self._counts[_slot(), 0] += 1

    def blank(self) -> UInt8[Tensor, "3 S S"]:
        """Return the pixels shown in place of a hidden image."""
        side = self.config.image_size
        return torch.full((3, side, side), BLANK, dtype=torch.uint8)

    def bad(self, row: int, name: str, source: str, reason: str) -> None:
        """Count a bad row; log it the first time that this process meets it."""
        what = f"{name} ({source}): {reason}"
        if self.config.strict:
            raise BadData(f"bad sample {what}")
        self._counts[_slot()] += 1
        if not self.train:
            self._blank[row] = True
        if name not in self._known_bad:
            self._known_bad.add(name)
            instead = "replaced by another one" if self.train else "shown as a blank image"
            log.warning("bad sample %s; %s", what, instead)
        counts = self.counts
        if counts["bad"] > BAD_COUNT and counts["bad"] > BAD_SHARE * counts["read"]:
            raise BadData(
                f"{counts['bad']} of {counts['read']} samples are bad, the last one {what}; "
                "check the data, or pack them with `vilta pack`, which skips bad ones"
            )


class SampleMaker(ImageMaker):
    """Turns rows of the pair table into samples.

    In training the caption and the crop are drawn; in evaluation they are the first caption and
    the centre.
    """

    def make(self, row: dict[str, Any], epoch: int, index: int, name: str) -> Sample:
        """Return the sample of a row; ``ValueError`` in one line if it is bad.

        Everything random follows from the epoch and from ``index``, the number of the row.
        """
        captions = _usable(row["captions"])
        if not captions:
            raise ValueError("no caption")
        caption, random = self._draw(captions, epoch, index)
        data = image_bytes(row["image"])
        pixels = self.pixels(index, lambda: data, random)
        self.good()
        return Sample(
            pixels=pixels,
            caption=caption if self.train else captions[0],
            image_id=row["image_id"],
            image_hash=xxh3_64_intdigest(data) >> 1,
            index=index,
            epoch=epoch,
            name=name,
        )

    def _draw(self, captions: list[str], epoch: int, index: int) -> tuple[str, np.random.Generator]:
        """Return the caption of an epoch, and the generator that draws the crop next."""
        random = generator_for(self.seed, "sample", epoch, index)
        return captions[int(random.integers(len(captions)))], random


class PairDataset(SampleMaker):
    """Samples of a pair table by (epoch, row).

    In training a bad one is replaced by another row, which follows from the seed; in evaluation,
    where every row counts, its image is blank. ``name`` is what error messages call the table.
    """

    def __init__(
        self, table: datasets.Dataset, config: DataConfig, seed: int, train: bool, name: str
    ) -> None:
        super().__init__(config, seed, train, len(table))
        missing = [c for c in COLUMNS if c not in table.column_names]
        if missing:
            found = ", ".join(table.column_names)
            raise ValueError(f"{name}: column {missing[0]!r} is missing (found: {found})")
        if len(table) == 0:
            raise ValueError(f"{name}: the data are empty")
        # Our own decoder checks sizes and formats first; `datasets` would decode anything.
        self.table = table.cast_column("image", datasets.Image(decode=False))
        self.name = name
        noise = config.caption_noise if train else 0.0
        self.captions_of = moved_captions(len(table), noise, seed)
        self._captions = self.table.select_columns(["captions"]) if self.captions_of else None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.table)

    def __getitem__(self, key: Key) -> Sample:
        """Return the sample of (epoch, row)."""
        epoch, _ = key

        def make(row: int) -> Sample:
            content = self.table[row]
            if self._captions is not None and row in self.captions_of:
                content = content | self._captions[self.captions_of[row]]
            return self.make(content, epoch, row, f"{self.name}#{row}")

        def describe(row: int) -> tuple[str, str]:
            return f"{self.name}#{row}", self.table[row]["source"]

        def blank(row: int) -> Sample:
            content, name = self.table[row], f"{self.name}#{row}"
            return Sample(
                pixels=self.blank(),
                caption=next(iter(_usable(content["captions"])), ""),
                image_id=content["image_id"],
                image_hash=stable_hash(name),
                index=row,
                epoch=epoch,
                name=name,
            )

        return self.first_usable(key, make, describe, blank)

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how many characters the captions of these samples have; reads no image."""
        rows = [self.captions_of.get(row, row) for _, row in keys]
        column = self.table.select_columns(["captions"])[rows]["captions"]
        usable = map(_usable, column)
        return [
            len(self._draw(captions, epoch, row)[0]) if captions else 0
            for (epoch, row), captions in zip(keys, usable, strict=True)
        ]


def moved_captions(rows: int, share: float, seed: int) -> dict[int, int]:
    """Return by row whose captions it gets, for a ``share`` of the rows chosen by ``seed``.

    They change places among themselves, none keeps its own: every caption still occurs once. With
    a larger share the same rows and more are chosen. Empty if there are fewer than two.
    """
    count = round(share * rows)
    if count < 2:
        return {}
    chosen = generator_for(seed, "caption noise").permutation(rows)[:count].tolist()
    return dict(zip(chosen, [*chosen[1:], chosen[0]], strict=True))


def fingerprint(table: datasets.Dataset) -> str:
    """Return a hash of a table's length and of up to 1,000 evenly spaced rows.

    It follows from the content alone, so data may move to another folder, and does not read a
    large table through.
    """
    plain = table
    if "image" in table.column_names:
        plain = table.cast_column("image", datasets.Image(decode=False))
    digest = hashlib.blake2b(str(len(plain)).encode(), digest_size=16)
    for row in range(0, len(plain), max(1, len(plain) // 1000)):
        content = plain[row]
        image = content.pop("image", None)
        digest.update(repr(sorted(content.items())).encode("utf-8", "surrogatepass"))
        digest.update((image or {}).get("bytes") or b"")
    return digest.hexdigest()


def _slot() -> int:
    info = get_worker_info()
    return 0 if info is None else 1 + info.id % (SLOTS - 1)


def _usable(captions: list[str | None]) -> list[str]:
    return [c for c in captions if c and not c.isspace()]


def image_bytes(image: dict[str, Any] | None) -> bytes:
    """Return the bytes of an undecoded image cell."""
    if not image:
        raise ValueError("no image")
    if image.get("bytes") is not None:
        return image["bytes"]
    try:
        return bounded_bytes(image["path"])
    except OSError as error:
        raise ValueError(f"cannot read {image['path']}: {error.strerror}") from None
