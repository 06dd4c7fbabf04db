"""What every reader is: items on disk in, clean rows of the pair table out, the rest counted."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
from upath import UPath
from xxhash import xxh3_128, xxh3_128_intdigest

from vilta.json_text import json_object
from vilta.screen import counted, shown

log = logging.getLogger("vilta.data")

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("string"),
        "source": datasets.Value("string"),
    }
)
"""The pair table."""
APPLE_DOUBLE = "._"
"""What macOS puts before a file's name for a second file, with its icon, when it packs archives."""
TEXT_SUFFIXES = (".txt", ".caption", ".cap")
"""File names that are taken for captions, beside an image of the same name."""
MANIFEST = "manifest.json"
"""File by which a folder packed by `vilta pack` is known."""
AGAIN = "#"
"""What stands between an id that was there before and the number of times that it came."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of images that are held in memory without packing (our choice)."""

Place = Path | UPath
"""A path here, or what acts as one in an object store."""
PairRow = dict[str, Any]
"""One row of the pair table, its image as ``{"bytes": ..., "path": None}``."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image as a reader found it, unchecked; ``read`` fetches its bytes when wanted."""

    captions: Any
    image_id: str
    source: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An item that is left out, and why."""

    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Read:
    """How far a source was read: the number of items, and a digest of their ids and captions.

    The end counts as an item.
    """

    items: int
    digest: str


NOTHING = Read(items=0, digest="")


class SourceChanged(Exception):
    """What was read of a source is not there any more, or not the same."""


class Reader(ABC):
    """Reads one source. ``what`` describes the source to the user."""

    what: str

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped: list[Skipped] = []
        self.strict = False
        self.first_id: dict[str, str] = {}
        """The id that an image had in the source, where others had it before."""

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Number of items, if that is known before reading; for progress only."""

    @abstractmethod
    def items(self) -> Iterable[Item]:
        """Yield what is there, in an order that depends on the source alone."""

    def count(self) -> int:
        """Return the number of items; reads through the source, unless the source knows."""
        return sum(1 for _ in self.items())

    def rows(self) -> Iterator[PairRow]:
        """Yield the rows of the pair table; what cannot be used goes to ``skipped``."""
        return (found for _, found in self.found() if not isinstance(found, Skipped))

    def found(self, start: Read = NOTHING) -> Iterator[tuple[Read, PairRow | Skipped]]:
        """Yield rows and what is skipped, in order, each with what was read up to it.

        What was read up to ``start`` is passed over: its images are not read. Raises
        ``SourceChanged`` if it is not what it was.
        """
        seen: Counter[str] = Counter()
        told, read, digest = 0, NOTHING, xxh3_128()
        for count, item in enumerate(chain(self.items(), (None,)), start=1):
            row = None
            if item is not None:  # None is the end, before which more may be skipped
                captions = clean_captions(item.captions)
                digest.update(repr((item.image_id, captions)).encode())
                row = self._row(item, captions, seen, count > start.items)
            read = Read(items=count, digest=digest.hexdigest())
            if count == start.items and read != start:
                raise SourceChanged
            if count > start.items:
                yield from ((read, skipped) for skipped in self.skipped[told:])
                if row is not None:
                    yield read, row
            told = len(self.skipped)
        if read.items < start.items:
            raise SourceChanged

    def _row(
        self, item: Item, captions: list[str], seen: Counter[str], read: bool
    ) -> PairRow | None:
        if not captions:
            self.skip(item.source, "no caption")
            return None
        image_id = first = as_text(item.image_id)
        seen[first] += 1
        if seen[first] > 1:  # one row per caption, or ids that are not unique
            image_id = f"{first}{AGAIN}{seen[first]}"
            self.first_id[image_id] = first
        if not read:
            return None
        try:
            data = item.read()
        except OSError as error:
            self.skip(item.source, f"cannot be read: {error.strerror or error}")
            return None
        return {
            "image": {"bytes": data, "path": None},
            "captions": captions,
            "image_id": image_id,
            "source": as_text(item.source),
        }

    def skip(self, source: str, reason: str) -> None:
        """Count an item that is left out; raises ``ValueError`` instead if ``strict``."""
        source, reason = as_text(source), as_text(reason)
        if self.strict:
            raise ValueError(f"{source}: {reason}")
        self.skipped.append(Skipped(source=source, reason=reason))

    def table(self) -> datasets.Dataset:
        """Return the rows as a table in memory; those with the same id and bytes are one.

        Raises ``ValueError`` if nothing is usable, or if there is so much that it must be packed.
        """
        rows: list[PairRow] = []
        places: dict[tuple[str, int], int] = {}
        size = 0
        for row in self.rows():
            image_id, data = row["image_id"], row["image"]["bytes"]
            name = PurePosixPath(self.first_id.get(image_id) or image_id).name
            place = places.setdefault((name, xxh3_128_intdigest(data)), len(rows))
            if place < len(rows):
                known = rows[place]["captions"]
                known += [caption for caption in row["captions"] if caption not in known]
                continue
            rows.append(row)
            size += len(data)
            if size > MEMORY_LIMIT:
                raise ValueError(
                    f"{self.name} is too large to be read into memory; run `vilta pack` first"
                )
        if not rows:
            raise ValueError(nothing_usable(self, self.skipped))
        parts = []
        while rows:  # freed as they are copied
            parts.append(datasets.Dataset.from_list(rows[:1000], features=FEATURES))
            del rows[:1000]
        self.warn_of_skipped()
        return datasets.concatenate_datasets(parts)

    def warn_of_skipped(self) -> None:
        """Say how many items were skipped, if any were."""
        if self.skipped:
            first = self.skipped[0]
            log.warning(
                "%s: %s skipped, the first: %s (%s)",
                self.name,
                counted(len(self.skipped), "item"),
                first.source,
                first.reason,
            )


def clean_captions(captions: Any) -> list[str]:
    """Return the captions that say something, each on one line, as valid Unicode."""
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list | tuple):
        return []
    texts = [c.replace("\0", " ") for c in captions if isinstance(c, str)]
    texts = [" ".join(valid_text(text).split()) for text in texts]
    return [text for text in texts if text]


def valid_text(text: str) -> str:
    """Return a text with ``?`` for what is no Unicode: JSON may hold half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def rows_with_captions(
    table: datasets.Dataset, rows: list[int], captions: list[list[str]]
) -> datasets.Dataset:
    """Return rows of a pair table with other captions; images are not read for it."""
    chosen = table.select(rows).remove_columns("captions").add_column("captions", captions)
    return chosen.select_columns([*table.features]).cast(table.features)


def as_text(name: str) -> str:
    """Return a file's name as valid Unicode; bytes that are not are written out, as ``\\xe9``."""
    return _NO_TEXT.sub(lambda found: shown(found[0]), name)


_NO_TEXT = re.compile("[\ud800-\udfff]")


def listed(names: Iterable[Any]) -> str:
    """Join names found in the data for an error message of one line, whatever they are."""
    return ", ".join(" ".join(str(name).split())[:40] for name in names)


def as_list(value: Any) -> list[Any]:
    """Return a list that was read from a file, and an empty one for whatever else is there."""
    return value if isinstance(value, list) else []


def manifest_of(folder: str | Path) -> dict[str, Any]:
    """Return what a packed folder says of itself; nothing of another, or of a damaged one."""
    return json_object(Path(folder) / MANIFEST)


def chosen_split(splits: Iterable[str], wanted: str, where: str) -> str:
    """Return the split to read; a ``ValueError`` names those there are."""
    splits = list(splits)
    if wanted in splits:
        return wanted
    if not wanted and len(splits) == 1:
        return splits[0]
    raise no_such_split(splits, wanted, where)


def chosen_splits(splits: Iterable[str], wanted: str, where: str) -> list[str]:
    """Return the splits to read, of which several are joined by a plus: ``train+restval``."""
    splits = list(splits)
    return [chosen_split(splits, part, where) for part in wanted.split("+")]


def no_such_split(splits: list[str], wanted: str, where: str) -> ValueError:
    """Return the error for a split that is not there, or for none where there are several."""
    known = f"there are: {listed(splits) or 'none'}"
    if wanted:
        return ValueError(f"{where}: no split {wanted!r}; {known}")
    return ValueError(
        f"{where}: a split must be named; {known} (write {where}?split=NAME, or NAME+NAME)"
    )


def nothing_usable(reader: Reader, skipped: list[Skipped]) -> str:
    """Return the error message for a source without a usable pair."""
    if not skipped:
        return f"{reader.name} ({reader.what}) is empty"
    first = skipped[0]
    return (
        f"{reader.name} ({reader.what}) has no usable pair; "
        f"{counted(len(skipped), 'was', 'were')} skipped, the first: {first.source} "
        f"({first.reason})"
    )


def chunks(rows: Iterable[PairRow], size: int) -> Iterator[list[PairRow]]:
    """Cut a stream of rows into lists of ``size``; the last may be shorter."""
    stream = iter(rows)
    while chunk := list(islice(stream, size)):
        yield chunk
