"""Reading pairs for training and evaluation, under the determinism contract.

The caption drawn, the crop, the mask and the order are pure functions of (seed, epoch, row).
Batches are hence the same for any number of loader processes, and a run that was stopped goes on
as if it had not been.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, get_worker_info

from vilta.config import DataConfig, OptimizationConfig, TextDataConfig
from vilta.data.augmentation import training_short_side, training_tensor
from vilta.data.collate import PairCollator
from vilta.data.order import Buckets, Key, TrainingOrder, derived, generator_for, sample_at
from vilta.data.transforms import decode_image, evaluation_tensor
from vilta.types import Batch, Sample

__all__ = [
    "PairCollator",
    "PairDataset",
    "evaluation_loader",
    "fingerprint",
    "loader_for",
    "training_loader",
]

log = logging.getLogger("vilta.data")

COLUMNS = ("image", "captions", "image_id", "source")
"""The columns of a pair table."""
BAD_SHARE, BAD_COUNT = 0.05, 20
"""A run stops once more samples than both of these were bad (our choice)."""
SLOTS = 65
"""Counters: one for the main process, the others for its loader processes."""


@runtime_checkable
class Samples(Protocol):
    """A map-style data set whose samples are pure functions of (epoch, row)."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: Key) -> Sample: ...
    def caption_lengths(self, keys: list[Key]) -> list[int]: ...


class BadData(ValueError):
    """A sample that cannot be used under ``strict``, or too many of them."""


class PairDataset:
    """Samples of a pair table by (epoch, row), for training or for evaluation.

    In training the caption and the crop are drawn; in evaluation they are the first caption and
    the centre. A bad sample (an
    unreadable image, no caption) is logged by name, counted, and replaced by another row that
    follows from the seed; :class:`BadData` is raised instead under ``config.strict``, and when
    there are too many. ``name`` is what error messages call the table.
    """

    def __init__(
        self, table: datasets.Dataset, config: DataConfig, seed: int, train: bool, name: str
    ) -> None:
        missing = [c for c in COLUMNS if c not in table.column_names]
        if missing:
            found = ", ".join(table.column_names)
            raise ValueError(f"{name}: column {missing[0]!r} is missing (found: {found})")
        if len(table) == 0:
            raise ValueError(f"{name}: the data are empty")
        # Our own decoder checks sizes and formats first; `datasets` would decode anything.
        self.table = table.cast_column("image", datasets.Image(decode=False))
        self.config, self.seed, self.train, self.name = config, seed, train, name
        self.short_side = training_short_side(
            config.image_size, config.augmentation if train else "none", config.min_crop
        )
        # Shared with the loader processes; each writes its own row, so no lock is needed.
        self._counts = torch.zeros(SLOTS, 2, dtype=torch.int64).share_memory_()
        self._known_bad: set[int] = set()
        self._decoded: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.table)

    @property
    def counts(self) -> dict[str, int]:
        """How many samples were read so far, and how many of them were bad, in all processes."""
        read, bad = self._counts.sum(dim=0).tolist()
        return {"read": read, "bad": bad}

    def __getitem__(self, key: Key) -> Sample:
        """Return the sample of (epoch, row)."""
        epoch, index = key
        row, attempt = index, 0
        while True:
            try:
                sample = self._read(epoch, row)
            except ValueError as error:
                attempt += 1
                self._bad(row, str(error))
                row = derived(self.seed, "replace", epoch, index, attempt) % len(self)
            else:
                self._counts[_slot(), 0] += 1
                return sample

    def _read(self, epoch: int, row: int) -> Sample:
        content = self.table[row]
        captions = _usable(content["captions"])
        if not captions:
            raise ValueError("no caption")
        config = self.config
        image = self._decoded.get(row)
        if image is None:
            image = decode_image(_image_bytes(content["image"]), self.short_side)
        if config.cache:
            self._decoded[row] = image
        if self.train:
            caption, random = self._draw(captions, epoch, row)
            pixels = training_tensor(
                image, config.image_size, config.augmentation, config.min_crop, random
            )
        else:
            caption = captions[0]
            pixels = evaluation_tensor(image, config.image_size)
        return Sample(
            pixels=pixels,
            caption=caption,
            image_id=content["image_id"],
            index=row,
            epoch=epoch,
            name=f"{self.name}#{row}",
        )

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how many characters the captions of these samples have; reads no image."""
        column = self.table.select_columns(["captions"])[[row for _, row in keys]]["captions"]
        usable = map(_usable, column)
        return [
            len(self._draw(captions, epoch, row)[0]) if captions else 0
            for (epoch, row), captions in zip(keys, usable, strict=True)
        ]

    def _draw(self, captions: list[str], epoch: int, row: int) -> tuple[str, np.random.Generator]:
        """Return the caption of an epoch, and the generator that draws the crop next."""
        random = generator_for(self.seed, "sample", epoch, row)
        return captions[int(random.integers(len(captions)))], random

    def _bad(self, row: int, reason: str) -> None:
        """Count a bad row; log it the first time that this process meets it."""
        source = self.table[row]["source"]
        what = f"{self.name}#{row} ({source}): {reason}"
        if self.config.strict:
            raise BadData(f"bad sample {what}")
        self._counts[_slot()] += 1
        if row not in self._known_bad:
            self._known_bad.add(row)
            log.warning("bad sample %s; replaced by another one", what)
        counts = self.counts
        if counts["bad"] > BAD_COUNT and counts["bad"] > BAD_SHARE * counts["read"]:
            raise BadData(
                f"{counts['bad']} of {counts['read']} samples are bad, the last one {what}; "
                "check the data, or pack them with `vilta pack`, which skips bad ones"
            )


def training_loader(
    dataset: Samples,
    collator: PairCollator,
    *,
    batch_size: int,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    steps: int,
    workers: int = 0,
    seed: int,
    bucket_steps: int = 0,
) -> Iterator[list[Batch]]:
    """Yield this rank's ``accumulate`` micro-batches a step, from ``start_step`` on.

    ``steps`` is the length of the whole run, not of what is left. :class:`TrainingOrder` says which
    samples these are. The stream goes over as many epochs as it needs.
    """
    order = TrainingOrder(
        partial(sample_at, seed, len(dataset)),
        batch_size=batch_size,
        accumulate=accumulate,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        steps=steps,
        buckets=Buckets(bucket_steps, dataset.caption_lengths, seed) if bucket_steps else None,
    )
    step: list[Batch] = []
    for batch in _batches(dataset, order, collator, workers):
        step.append(batch)
        if len(step) == accumulate:
            yield step
            step = []


def loader_for(
    dataset: Samples,
    collator: PairCollator,
    optimization: OptimizationConfig,
    data: DataConfig | TextDataConfig,
    *,
    seed: int,
) -> Callable[..., Iterator[Batch]]:
    """Return what the training loop asks for: micro-batches from any step on, for any process."""

    def load(*, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        steps = training_loader(
            dataset,
            collator,
            batch_size=optimization.batch_size,
            accumulate=optimization.accumulate,
            rank=rank,
            world_size=world_size,
            start_step=start_step,
            steps=optimization.steps,
            workers=data.workers,
            seed=seed,
            bucket_steps=data.bucket_steps,
        )
        return chain.from_iterable(steps)

    return load


class EvaluationLoader:
    """Every row once, in order; may be iterated again. See :func:`evaluation_loader`."""

    def __init__(
        self, dataset: Samples, collator: PairCollator, keys: list[list[Key]], workers: int
    ) -> None:
        self.dataset, self.collator, self.keys, self.workers = dataset, collator, keys, workers

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, the last of which may be smaller."""
        return _batches(self.dataset, self.keys, self.collator, self.workers)


def evaluation_loader(
    dataset: Samples, collator: PairCollator, *, batch_size: int, workers: int = 0
) -> EvaluationLoader:
    """Return every row once, in order, masked as in epoch 0; may be iterated again."""
    keys = [(0, row) for row in range(len(dataset))]
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return EvaluationLoader(dataset, collator, batches, workers)


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


def _batches(dataset: Samples, order: Any, collator: PairCollator, workers: int) -> Iterator[Batch]:
    """Run a DataLoader over lists of keys; errors from its processes come as one line."""
    # Loader processes are forked; without this the tokenizer warns in each of them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader: DataLoader[Sample] = DataLoader(
        dataset,  # map style with a key of two numbers
        batch_sampler=order,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    message = ""
    try:
        yield from _started(loader)
    except BadData as error:
        # From a worker, the text is a traceback whose last line is ours.
        message = str(error).strip().splitlines()[-1].removeprefix(_QUALIFIED)
        error.__traceback__ = None  # its frames would keep the loader's processes alive
    if message:
        raise BadData(message)


_QUALIFIED = f"{BadData.__module__}.{BadData.__qualname__}: "


def _started(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """Start the loader's processes, deaf to stop requests from their first moment on.

    Ctrl-C and a scheduler's SIGTERM reach every process of the job, and the main one, which handles
    them, still wants the batches of its last step. A process inherits which signals are blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        return iter(loader)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _slot() -> int:
    info = get_worker_info()
    return 0 if info is None else 1 + info.id % (SLOTS - 1)


def _usable(captions: list[str | None]) -> list[str]:
    return [c for c in captions if c and not c.isspace()]


def _image_bytes(image: dict[str, Any] | None) -> bytes:
    """Return the bytes of an undecoded image cell."""
    if not image:
        raise ValueError("no image")
    if image.get("bytes") is not None:
        return image["bytes"]
    try:
        return Path(image["path"]).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {image['path']}: {error.strerror}") from None
