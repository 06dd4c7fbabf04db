"""WebDataset tars: members of one sample are adjacent and share the name up to the first dot.

A sample has an image (`.jpg`, `.png`, ...) and its captions in a `.txt`, or in a `.json` under one
of the usual names. What img2dataset leaves beside its tars, a table with a status for each
download, names those that failed.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from vilta.data.sources.base import CAPTION_COLUMNS, IMAGE_SUFFIXES, Item, Place, Reader, listed
from vilta.data.sources.downloads import failed_downloads
from vilta.data.sources.files import tar_members

LARGEST_MEMBER = 2**28
"""Bytes of a member; a larger one is skipped unread (our choice)."""

Sample = dict[str, bytes]
"""The content of a sample's members by suffix."""


class WebDatasetReader(Reader):
    """Tars, each read once as a stream."""

    what = "WebDataset tars"

    def __init__(self, tars: Sequence[Place], name: str, column: str) -> None:
        super().__init__(name)
        self.tars, self.column = tars, column

    @property
    def total(self) -> None:
        """Nobody knows the number of samples before the tars are read."""

    def items(self) -> Iterator[Item]:
        """Yield the samples in the order of the tars."""
        for tar in self.tars:
            for key, reason in failed_downloads(tar.with_suffix(".parquet")):
                self.skip(f"{tar.name}:{key}", reason)
            for key, sample in self._samples(tar):
                source = f"{tar.name}:{key}"
                suffix = next((s for s in IMAGE_SUFFIXES if s in sample), None)
                if suffix is None:
                    self.skip(source, f"no image among its members ({listed(sample)})")
                    continue
                yield Item(
                    captions=_captions(sample, self.column),
                    image_id=f"{tar.stem}/{key}",
                    source=source,
                    read=partial(bytes, sample[suffix]),
                )

    def _samples(self, tar: Place) -> Iterator[tuple[str, Sample]]:
        """Yield each key with its members; a key that comes again later is skipped."""
        done: set[str] = set()
        key, sample = "", Sample()
        try:
            for member, read in tar_members(tar):
                name = PurePosixPath(member.name)
                stem, dot, suffix = name.name.partition(".")
                if not dot or not stem:
                    continue  # no sample's member, such as a README
                if str(name.parent / stem) != key:
                    if sample:
                        yield key, sample
                    done.add(key)
                    key, sample = str(name.parent / stem), {}
                where = f"{tar.name}:{member.name}"
                if key in done:
                    self.skip(where, "its sample has ended before; members of one must be adjacent")
                elif member.size > LARGEST_MEMBER:
                    self.skip(where, f"larger than {LARGEST_MEMBER // 2**20} MiB")
                else:
                    sample[f".{suffix.lower()}"] = read()
            if sample:
                yield key, sample
        except (tarfile.TarError, OSError, EOFError) as error:
            # The sample at hand is incomplete; what came before was good.
            self.skip(str(tar), f"the tar ends early, after {key or 'nothing'}: {error}")


def _captions(sample: Sample, column: str) -> Any:
    """Return what the sample says in words; None if nothing."""
    if ".json" in sample and (column or ".txt" not in sample):
        try:
            content = json.loads(sample[".json"])
        except (ValueError, RecursionError):
            return None
        names = (column,) if column else CAPTION_COLUMNS
        known = content if isinstance(content, dict) else {}
        return next((known[name] for name in names if name in known), None)
    return sample.get(".txt", b"").decode("utf-8", "replace")
