"""Shards by pattern, on this machine or in an object store: what is read as a stream."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from vilta.data.sources.base import Place, Reader
from vilta.data.sources.columnar import SUFFIXES as COLUMNAR
from vilta.data.sources.columnar import columnar_reader, files_of_split
from vilta.data.sources.options import SourceOptions, named_options
from vilta.data.sources.webdataset import WebDatasetReader
from vilta.json_text import json_object

TARS = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (*TARS, *COLUMNAR)
"""What a shard's name ends with."""
HUB = "hub:"
"""What the name of a data set of the hub begins with, as in hub:owner/name."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def find_shards(pattern: str) -> list[str]:
    """Return the tars, Parquet or Arrow files that a pattern names, sorted.

    ``pattern`` is a file, a folder, or has wildcards (``cc12m/*.tar``) or ranges
    (``{00000..00331}``, as WebDataset writes them); it may begin with a protocol of fsspec, such as
    ``s3://``, or be ``hub:owner/name``, the files of a data set of the hub.

    ``pattern?split=NAME`` takes those with the split in their names, or their rows of it.

    Raises ``ValueError`` with one line if there are none, or if the names contain several splits.
    """
    pattern, options = named_options(pattern, SourceOptions())
    if pattern.startswith(HUB):
        pattern = "hf://datasets/" + pattern.removeprefix(HUB)
    try:
        found = [place for text in _ranges(pattern) for place in _places(text)]
    except (OSError, ValueError, ImportError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{pattern} cannot be listed: {line}") from None
    if not found:
        raise ValueError(f"{pattern}: no shards there; looked for {', '.join(SUFFIXES)}")
    # What img2dataset leaves beside a tar is a table of its downloads, no shard.
    tables = {f"{t.removesuffix(end)}.parquet" for t in found for end in TARS if t.endswith(end)}
    found = [text for text in found if text not in tables]
    rows_may_say = not found[0].endswith(TARS)
    chosen = files_of_split(found, options.split, pattern, rows_may_say)
    if chosen is None:  # it is a column
        return [f"{text}?split={options.split}" for text in found]
    return list(chosen)


def shard_reader(shard: str) -> Reader:
    """Return the reader of one of these shards."""
    shard, options = named_options(shard, SourceOptions())
    place = _place(shard)
    if place.name.endswith(TARS):
        return WebDatasetReader([place], shard, options)
    return columnar_reader([place], shard, options)


def stored_count(shard: str) -> int | None:
    """Return how many pairs a tar holds, if a file beside it says so.

    ``NAME_stats.json`` is what img2dataset writes, ``sizes.json`` with the count of each tar is
    WebDataset's habit.
    """
    place = _place(named_options(shard, SourceOptions())[0])
    if not place.name.endswith(TARS):
        return None
    stem = place.name.partition(".")[0]
    for name, key in ((f"{stem}_stats.json", "successes"), ("sizes.json", place.name)):
        count = json_object(place.parent / name).get(key)
        if type(count) is int and count >= 0:
            return count
    return None


def file_name(shard: str) -> str:
    """Return the name of a shard without its folder: what stays when data move."""
    return shard.rpartition("/")[2]


def _ranges(pattern: str) -> Iterator[str]:
    """Write out the ranges of a pattern, with leading zeros."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        middle = str(number).zfill(len(first))
        yield from _ranges(pattern[: match.start()] + middle + pattern[match.end() :])


def _places(pattern: str) -> list[str]:
    """Return what one pattern names; a file is believed to be there, which saves a request."""
    place = _place(pattern)
    if glob.has_magic(pattern):
        fixed = next(i for i, part in enumerate(place.parts) if glob.has_magic(part))
        root = place.parents[len(place.parts) - fixed - 1]
        found = root.glob("/".join(place.parts[fixed:]))
    elif place.name.endswith(SUFFIXES):
        if isinstance(place, UPath):
            _ = place.fs  # raises if the protocol needs another package
        return [pattern]
    else:
        found = place.rglob("*")
    named = (file for file in found if file.name.endswith(SUFFIXES))
    # Here a pipe would be waited for; elsewhere there are none, and to ask is a request a file.
    return sorted(str(file) for file in named if isinstance(file, UPath) or file.is_file())


def _place(text: str) -> Place:
    """Return where a shard is; made in each process, because connections cannot be shared."""
    return UPath(text) if "://" in text else Path(text)
