"""Several sources as one data set: a YAML file with a line for each, ``path: weight``.

With weight 1 an epoch holds each row of a source once; with 0.5 every other row (the rest comes in
the next epoch), with 2 each row twice. Which rows these are is a pure function of the seed and the
epoch, as everything else about a batch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import yaml

from vilta.config import DataConfig
from vilta.data.order import Key, sample_at
from vilta.data.samples import PairDataset, fingerprint
from vilta.data.sources import find_shards, load_pairs
from vilta.data.sources.base import listed
from vilta.data.sources.patterns import file_name
from vilta.data.streaming import StreamedPairs
from vilta.data.word_borders import LOOKED
from vilta.seeds import derived
from vilta.types import Sample

SUFFIXES = (".yaml", ".yml")
STREAM = "stream:"
"""What the name of shards that are read as a stream begins with."""


def training_data(
    config: DataConfig, seed: int
) -> tuple[PairDataset | Mixture | StreamedPairs, str]:
    """Return the samples of ``config.train``, and a hash of their content.

    For a stream, the names of its shards are hashed, and how they are read side by side.

    Raises ``ValueError`` with one line for a source, or a mixture, that cannot be read.
    """

    def load(path: str, seed: int) -> PairDataset:
        return PairDataset(load_pairs(path, strict=config.strict), config, seed, True, path)

    if config.train.startswith(STREAM):
        if config.bucket_steps or config.cache:
            raise ValueError("data.bucket_steps and data.cache are not for streams; set them to 0")
        if config.caption_noise:
            raise ValueError("data.caption_noise is not for streams; pack the data first")
        shards = find_shards(config.train.removeprefix(STREAM))
        content = derived(config.lanes, config.mixed_lanes, *map(file_name, shards))
        return StreamedPairs(shards, config, seed, config.train), f"{content:x}"
    if not config.train.endswith(SUFFIXES):
        pairs = load(config.train, seed)
        return pairs, fingerprint(pairs.table)
    weights = read_mixture(config.train)
    parts = [load(path, derived(seed, "mixture", path)) for path in weights]
    hashes = [f"{fingerprint(p.table)} {w}" for p, w in zip(parts, weights.values(), strict=True)]
    return Mixture(parts, list(weights.values()), seed), f"{derived(*hashes):x}"


def some_captions(data: PairDataset | Mixture | StreamedPairs) -> list[str]:
    """Return a caption of evenly spaced rows; of a stream those that it begins with."""
    if isinstance(data, StreamedPairs):
        return data.first_captions()
    found: list[str] = []
    for part in data.parts if isinstance(data, Mixture) else [data]:
        rows = range(0, len(part), max(1, len(part) // LOOKED))
        column = part.table.select_columns(["captions"])[list(rows)]["captions"]
        found += [captions[0] for captions in column if captions and captions[0]]
    return found


def read_mixture(path: str) -> dict[str, float]:
    """Return the weight of each source; raises ``ValueError`` if the file is not a mixture."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    form = "a mixture has a line `path: weight` for each source, such as `data/coco: 1`"
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: {form}")
    for source, weight in content.items():
        if not isinstance(source, str) or isinstance(weight, bool):
            raise ValueError(f"{path}: {form}, not `{listed([source])}: {listed([weight])}`")
        if source.startswith(STREAM):
            raise ValueError(f"{path}: a mixture cannot contain a stream ({source}); pack it first")
        if not isinstance(weight, int | float) or not 0 < weight < 1e6:
            raise ValueError(f"{path}: the weight must be above 0: {listed([source, weight])}")
    return {source: float(weight) for source, weight in content.items()}


class Mixture:
    """Samples of several data sets by (epoch, row), each in an order of its own."""

    def __init__(self, parts: Sequence[PairDataset], weights: Sequence[float], seed: int) -> None:
        self.parts, self.seed = list(parts), seed
        self.shares = [
            max(1, round(weight * len(part))) for part, weight in zip(parts, weights, strict=True)
        ]
        """Rows of an epoch that each source has."""
        self.ends = list(accumulate(self.shares))

    @property
    def counts(self) -> dict[str, int]:
        """How many samples were read so far, and how many of them were bad, of all sources."""
        return {name: sum(part.counts[name] for part in self.parts) for name in ("read", "bad")}

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return self.ends[-1]

    def __getitem__(self, key: Key) -> Sample:
        """Return the sample at a place of an epoch."""
        number, place = self.place_of(key)
        sample = self.parts[number][place]
        # Masks follow from epoch and row; those of two sources must not be the same.
        return replace(sample, epoch=key[0], index=key[1])

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how many characters the captions of these samples have; reads no image."""
        places = [self.place_of(key) for key in keys]
        lengths = [0] * len(keys)
        for number, part in enumerate(self.parts):
            at = [i for i, (owner, _) in enumerate(places) if owner == number]
            for i, length in zip(at, part.caption_lengths([places[i][1] for i in at]), strict=True):
                lengths[i] = length
        return lengths

    def place_of(self, key: Key) -> tuple[int, Key]:
        """Return the source of a row, and the epoch and row there."""
        epoch, row = key
        number = bisect.bisect_right(self.ends, row)
        share = self.shares[number]
        position = epoch * share + row - (self.ends[number] - share)
        part_seed = derived(self.seed, "part", number)
        return number, sample_at(part_seed, len(self.parts[number]), position)
