"""The order of samples as pure functions of a seed: the basis of the determinism contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vilta.seeds import derived, generator_for

Key = tuple[int, int]
"""Epoch and row of a sample."""


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def scrambled(values: np.ndarray) -> np.ndarray:
    """Map uint64 one to one to values that look random: the finalizer of SplitMix64 (Vigna)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def noise_for(seed: int, keys: Sequence[Key], count: int) -> np.ndarray:
    """Return ``count`` uniform float32 in [0, 1) for each key, an array ``[B, count]``.

    A row is a pure function of the seed and its key, and a shorter one is the beginning of a
    longer one. Each is the stream of a SplitMix64 generator, all of them at once.
    """
    start = np.full(len(keys), derived(seed, "noise"), dtype=np.uint64)
    for part in np.array(keys, dtype=np.uint64).reshape(-1, 2).T:
        start = scrambled(start + (part + np.uint64(1)) * _GOLDEN)
    place = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = scrambled(start[:, None] + place[None])
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def hashes_of_rows(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a 63-bit hash of what each row holds where ``mask`` is 1: integers ``[B, L]``.

    Rows padded to another length have the same hash.
    """
    place = np.arange(1, ids.shape[1] + 1, dtype=np.uint64) * _GOLDEN
    parts = scrambled(scrambled(ids.astype(np.uint64)) + place[None])
    total = np.where(mask.astype(bool), parts, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return (scrambled(total) >> np.uint64(1)).astype(np.int64)


@lru_cache(maxsize=16)  # each source of a mixture has two in use at the end of its epoch
def permutation(seed: int, length: int, epoch: int) -> Int[Tensor, " N"]:
    """Return the order of the ``length`` rows in an epoch."""
    generator = torch.Generator().manual_seed(derived(seed, "order", epoch))
    return torch.randperm(length, generator=generator)


def sample_at(seed: int, length: int, position: int) -> Key:
    """Return (epoch, row) at a position of the endless stream of samples.

    Epochs follow each other without a gap: position p belongs to epoch p // length, and a batch
    may hold the end of one and the start of the next, so that nothing is dropped.
    """
    epoch, place = divmod(position, length)
    return epoch, int(permutation(seed, length, epoch)[place])


class Buckets(NamedTuple):
    """Batches of captions of about the same length; see :class:`TrainingOrder`."""

    steps: int
    """Steps whose samples are sorted together; more: less padding, less random."""
    lengths: Callable[[list[Key]], list[int]]
    """Length of the captions of samples."""
    seed: int


class TrainingOrder:
    """The micro-batches of one rank, as lists of keys, for a ``DataLoader``.

    The global batch of step s covers positions s * G * b to (s + 1) * G * b with
    G = world_size * accumulate micro-batches of b samples; rank r has the micro-batches
    r * accumulate to (r + 1) * accumulate - 1. Every rank together thus sees the same samples for
    any split of G. A resumed run starts at its step without reading what came before.

    ``key_at`` returns the sample at a position, such as :func:`sample_at`. With ``buckets`` the
    samples of some steps are sorted by length before they are cut into micro-batches, whose order
    is then random: less padding, from the same samples.
    """

    def __init__(
        self,
        key_at: Callable[[int], Key],
        *,
        batch_size: int,
        accumulate: int,
        rank: int,
        world_size: int,
        start_step: int,
        steps: int,
        buckets: Buckets | None = None,
    ) -> None:
        self.key_at, self.batch_size, self.buckets = key_at, batch_size, buckets
        self.first, self.last = rank * accumulate, (rank + 1) * accumulate
        self.micro_batches = world_size * accumulate
        self.start_step, self.steps = start_step, steps

    def __len__(self) -> int:
        """Return the number of micro-batches that are left."""
        return max(self.steps - self.start_step, 0) * (self.last - self.first)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield one list of keys per micro-batch."""
        number, pool = -1, list[list[Key]]()
        for step in range(self.start_step, self.steps):
            for micro in range(self.first, self.last):
                place = step * self.micro_batches + micro
                if self.buckets is None:
                    yield self._keys(place, 1)
                    continue
                wanted, place = divmod(place, self.buckets.steps * self.micro_batches)
                if wanted != number:
                    number, pool = wanted, self._pool(wanted, self.buckets)
                yield pool[place]

    def _keys(self, first: int, count: int) -> list[Key]:
        """Return the samples of ``count`` micro-batches in the order of their positions."""
        start, stop = first * self.batch_size, (first + count) * self.batch_size
        return [self.key_at(position) for position in range(start, stop)]

    def _pool(self, number: int, buckets: Buckets) -> list[list[Key]]:
        """Return all ranks' micro-batches of a pool of steps."""
        count = buckets.steps * self.micro_batches
        keys = self._keys(number * count, count)
        lengths = buckets.lengths(keys)
        ordered = [keys[i] for i in sorted(range(len(keys)), key=lengths.__getitem__)]
        places = generator_for(buckets.seed, "buckets", number).permutation(count).tolist()
        return [ordered[p * self.batch_size : (p + 1) * self.batch_size] for p in places]
