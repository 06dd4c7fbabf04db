"""Samples from shards that are read sequentially, for data too large or too far away for a table.

The shards of all epochs, each epoch in an order of its own, are dealt to lanes in turn. A few lanes
form a group, and the micro-batches of a run draw from the groups in turn, evenly from all lanes of
a group. A lane is read forward in chunks, each shuffled within itself. Which sample stands where is
hence a pure function of the seed, the batch size, the lanes and the shards, for any number of
processes: each pair comes once an epoch, and a run that was stopped repeats none and skips none.
What it costs to go on: the shards before its place must be counted. Parquet files store how many
pairs they hold, and tars may have a file beside them that says it (``patterns.stored_count``);
other tars, and Arrow files, have to be read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count, islice

from vilta.config import DataConfig
from vilta.data.order import Key, permutation
from vilta.data.samples import BadData, SampleMaker
from vilta.data.sources.base import Item, clean_captions
from vilta.data.sources.patterns import file_name, shard_reader, stored_count
from vilta.screen import counted
from vilta.seeds import generator_for, stable_hash
from vilta.types import Sample

CHUNK = 256
"""Pairs of a lane that are shuffled together, and held in memory as files (our choice)."""

Found = tuple[int, str, Item]
"""An item with its epoch and a name that locates it."""


class StreamedPairs(SampleMaker):
    """Samples of shards by (lane, number in the lane); ``name`` appears in error messages.

    A bad one is replaced by another of its chunk.
    """

    def __init__(self, shards: Sequence[str], config: DataConfig, seed: int, name: str) -> None:
        super().__init__(config, seed, train=True)
        self.shards, self.name = list(shards), name
        self.lanes = min(config.lanes, len(self.shards))
        self._open: dict[int, _Lane] = {}
        self._lengths: dict[str, int] = {}
        self.barren: set[str] = set()
        """Shards of which a reading has yielded nothing, whatever was counted."""

    def mixed(self, batch_size: int) -> int:
        """Return how many lanes a micro-batch draws from."""
        return _divisor(math.gcd(self.lanes, batch_size), self.config.mixed_lanes)

    def key_at(self, batch_size: int, position: int) -> Key:
        """Return lane and number of the sample at a position; groups of lanes take turns."""
        batch, place = divmod(position, batch_size)
        mixed = self.mixed(batch_size)
        turn, group = divmod(batch, self.lanes // mixed)
        row, lane = divmod(place, mixed)
        return group * mixed + lane, turn * (batch_size // mixed) + row

    def read_over(self, batch_size: int, processes: int, accumulate: int, workers: int) -> str:
        """Say how many processes read each shard, if it is more than one; else nothing."""
        groups, readers = self.lanes // self.mixed(batch_size), processes * accumulate
        readers *= max(workers, 1)
        times = readers // math.gcd(groups, readers)
        if times == 1:
            return ""
        # Of so many lanes a micro-batch mixes all that the batch size allows: a group a reader.
        wanted = _divisor(batch_size, self.config.mixed_lanes) * readers
        way = f"--data.lanes {wanted}"
        if wanted > len(self.shards):
            way = f"{wanted} shards or more, with {way},"
        return (
            f"each shard is read {times} times over: "
            f"{counted(groups, 'group of lanes', 'groups of lanes')}, {readers} readers "
            f"(processes x accumulate x workers); {way} would have each read it once"
        )

    def __getitem__(self, key: Key) -> Sample:
        """Return the sample of (lane, number); fast if requested in order."""
        number, place = divmod(key[1], CHUNK)
        lane = self._open.setdefault(key[0], _Lane(self, key[0]))
        chunk = lane.chunk(number)
        for epoch, name, item in chunk[place:] + chunk[:place]:
            try:
                row = {
                    "image": {"bytes": item.read(), "path": None},
                    "captions": clean_captions(item.captions),
                    "image_id": item.image_id,
                }
                return self.make(row, epoch, stable_hash(name), name)
            except (ValueError, OSError) as error:
                if isinstance(error, BadData):
                    raise
                self.bad(key[1], name, item.source, str(error))
        raise BadData(f"{self.name}: none of {CHUNK} pairs in a row can be used")

    def first_captions(self) -> list[str]:
        """Return a caption of each pair that a run begins with.

        They are read for this alone: loader processes must not inherit an open file.
        """
        texts = (clean_captions(item.captions) for _, _, item in _Lane(self, 0).chunk(0))
        return [captions[0] for captions in texts if captions]

    def count(self, shard: str) -> int:
        """Return how many pairs a shard has; it is counted once."""
        if shard not in self._lengths:
            stored = stored_count(shard)
            self._lengths[shard] = shard_reader(shard).count() if stored is None else stored
        return self._lengths[shard]

    def may_have_pairs(self) -> bool:
        """Whether any shard is left that has yielded some, or may."""
        return any(self.count(shard) for shard in self.shards if shard not in self.barren)


def _divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number up to ``most``."""
    return next(m for m in range(min(number, most), 0, -1) if not number % m)


class _Lane:
    """One of the streams that are read side by side."""

    def __init__(self, pairs: StreamedPairs, lane: int) -> None:
        self.pairs, self.lane = pairs, lane
        self.number, self.current = -1, list[Found]()
        self.items: Iterator[Found] = iter(())

    def chunk(self, number: int) -> list[Found]:
        """Return a shuffled chunk; the one after the last is the next to be read."""
        if number == self.number:
            return self.current
        if number != self.number + 1 or number == 0:
            self.items = self._items(number * CHUNK)
        self.number, self.current = number, list(islice(self.items, CHUNK))
        order = generator_for(self.pairs.seed, "chunk", self.lane, number).permutation(CHUNK)
        self.current = [self.current[i] for i in order]
        return self.current

    def _items(self, start: int) -> Iterator[Found]:
        """Yield the lane's items from number ``start`` on, without end."""
        shards, seed = self.pairs.shards, self.pairs.seed
        empty = 0
        for turn in count():
            epoch, place = divmod(self.lane + turn * self.pairs.lanes, len(shards))
            shard = shards[int(permutation(seed, len(shards), epoch)[place])]
            if empty > len(shards) and not self.pairs.may_have_pairs():
                raise BadData(f"{self.pairs.name}: no shard has a usable pair")
            if start and start >= (number := self.pairs.count(shard)):
                start -= number
                empty = 0 if number else empty + 1
                continue
            reader, found = shard_reader(shard), 0
            reader.strict = self.pairs.config.strict
            name = file_name(shard)
            try:
                for found, item in enumerate(reader.items(), start=1):
                    if found > start:
                        yield epoch, f"{name}#{found - 1}", item
            except ValueError as error:
                raise BadData(f"bad item {error}") from None
            start = 0
            if epoch == 0:
                reader.warn_of_skipped()
            if not found:
                self.pairs.barren.add(shard)
            empty = 0 if found else empty + 1
