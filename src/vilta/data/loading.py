"""Batches for training and evaluation, in an order that depends on the seed alone.

They are the same for any number of loader processes; a resumed run reads what is left of it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch.utils.data import DataLoader

from vilta.config import DataConfig, OptimizationConfig, TextDataConfig
from vilta.data.order import Buckets, Key, TrainingOrder, sample_at
from vilta.data.samples import BadData, Samples
from vilta.data.streaming import StreamedPairs
from vilta.types import Batch, Sample

log = logging.getLogger("vilta.data")

Collator = Callable[[Any], Any]
"""Turns samples into a batch. Must be picklable."""


def training_loader(
    dataset: Samples | StreamedPairs,
    collator: Collator,
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
    """Yield this rank's ``accumulate`` micro-batches per step, from ``start_step`` on.

    ``steps`` is the length of the whole run, not of what is left. :class:`TrainingOrder` decides
    which samples these are. The stream covers as many epochs as it needs.
    """
    if isinstance(dataset, StreamedPairs):
        key_at, buckets = partial(dataset.key_at, batch_size), None
        told = dataset.read_over(batch_size, world_size, accumulate, workers)
        if told and rank == 0:
            log.warning(told)
    else:
        key_at = partial(sample_at, seed, len(dataset))
        buckets = Buckets(bucket_steps, dataset.caption_lengths, seed) if bucket_steps else None
    order = TrainingOrder(
        key_at,
        batch_size=batch_size,
        accumulate=accumulate,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        steps=steps,
        buckets=buckets,
    )
    step: list[Batch] = []
    for batch in _batches(dataset, order, collator, workers):
        step.append(batch)
        if len(step) == accumulate:
            yield step
            step = []


def loader_for(
    dataset: Samples | StreamedPairs,
    collator: Collator,
    optimization: OptimizationConfig,
    data: DataConfig | TextDataConfig,
    *,
    seed: int,
) -> Callable[..., Iterator[Batch]]:
    """Return the loader of the training loop: micro-batches from any step on, for any process."""

    def load(*, start_step: int, rank: int, world_size: int) -> Iterator[Batch]:
        steps = training_loader(
            dataset,
            collator,
            batch_size=optimization.samples_at_once,
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


def order_of(
    dataset: Samples | StreamedPairs,
    optimization: OptimizationConfig,
    data: DataConfig | TextDataConfig,
) -> str:
    """Name the settings that decide which samples a step has, but for its size: mostly none.

    A run goes on with the same ones: others would deal the samples of an epoch anew, in its middle.
    """
    batch = f"optimization.batch_size {optimization.samples_at_once}"
    if isinstance(dataset, StreamedPairs):  # its lanes are part of the hash of its content
        return batch
    return f"data.bucket_steps {data.bucket_steps}, {batch}" if data.bucket_steps else ""


def first_batches(
    dataset: Samples | StreamedPairs,
    collator: Collator,
    optimization: OptimizationConfig,
    data: DataConfig | TextDataConfig,
    *,
    seed: int,
) -> Iterator[Batch]:
    """Return the first micro-batches of a run in any order, read in this process."""
    data = replace(data, workers=0, bucket_steps=0)
    load = loader_for(dataset, collator, optimization, data, seed=seed)
    return load(start_step=0, rank=0, world_size=1)


class EvaluationLoader:
    """Every row once, in order; may be iterated again. See :func:`evaluation_loader`."""

    def __init__(
        self, dataset: Samples, collator: Collator, keys: list[list[Key]], workers: int
    ) -> None:
        self.dataset, self.collator, self.keys, self.workers = dataset, collator, keys, workers

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, the last of which may be smaller."""
        return _batches(self.dataset, self.keys, self.collator, self.workers)


def evaluation_loader(
    dataset: Samples, collator: Collator, *, batch_size: int, workers: int = 0
) -> EvaluationLoader:
    """Return every row once, in order, masked as in epoch 0; may be iterated again."""
    keys = [(0, row) for row in range(len(dataset))]
    batches = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    return EvaluationLoader(dataset, collator, batches, workers)


def _batches(dataset: Any, order: Any, collator: Collator, workers: int) -> Iterator[Batch]:
    """Run a DataLoader over lists of keys; errors from its processes come as one line."""
    # Loader processes are forked; without this the tokenizer warns in each of them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader: DataLoader[Sample] = _Loader(
        dataset,  # map style with a key of two numbers
        batch_sampler=order,
        collate_fn=collator,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),  # else a copy to the GPU waits for it
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


class _Loader(DataLoader[Sample]):
    def check_worker_number_rationality(self) -> None:
        """Warn of nothing: on one core torch would, twice, of the two processes of the default."""


_QUALIFIED = f"{BadData.__module__}.{BadData.__qualname__}: "


def _started(loader: DataLoader[Sample]) -> Iterator[Batch]:
    """Start the loader's processes, which ignore stop signals from the start.

    Ctrl-C and a scheduler's SIGTERM reach every process of the job, and the main one, which handles
    them, still wants the batches of its last step. A process inherits which signals are blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        return iter(loader)
    requests = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, requests)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
