"""WebDataset tars: members of one sample share the name up to the first dot.

They are mostly adjacent. A sample has an image (`.jpg`, `.png`, ...) and its captions in a `.txt`,
`.caption` or `.cap`, or in a `.json` under one of the usual names. What img2dataset leaves beside
its tars, a table with a status for each download, names those that failed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from vilta.data.sources.base import (
    TEXT_SUFFIXES,
    Item,
    Place,
    Reader,
    listed,
)
from vilta.data.sources.columns import caption_columns, captions_in
from vilta.data.sources.downloads import failed_downloads
from vilta.data.sources.files import tar_members
from vilta.data.sources.options import SourceOptions
from vilta.data.sources.tables import decoded_bytes
from vilta.decoding import IMAGE_SUFFIXES, LARGEST_FILE
from vilta.json_text import parse_json

MOST_WAITING = 2**31
"""Bytes of samples that wait for their image or their text (our choice)."""

TarSample = dict[str, bytes]
"""The content of a sample's members by suffix."""


class WebDatasetReader(Reader):
    """Tars, each read once as a stream."""

    what = "WebDataset tars"

    def __init__(self, tars: Sequence[Place], name: str, options: SourceOptions) -> None:
        super().__init__(name)
        self.tars, self.options = tars, options

    @property
    def total(self) -> None:
        """Nobody knows the number of samples before the tars are read."""

    def items(self) -> Iterator[Item]:
        """Yield the samples in the order of the tars."""
        for tar in self.tars:
            stem = tar.name.partition(".tar")[0]
            for key, reason in failed_downloads(tar.with_name(f"{stem}.parquet")):
                self.skip(f"{tar.name}:{key}", reason)
            for key, sample in self._samples(tar):
                source = f"{tar.name}:{key}"
                image = _image(sample)
                if image is None:
                    self.skip(source, f"no image among its members ({listed(sample)})")
                    continue
                try:
                    captions = _captions(sample, self.options, source)
                except ValueError as error:
                    self.skip(source, str(error))
                    continue
                yield Item(
                    captions=captions,
                    image_id=f"{stem}/{key}",
                    source=source,
                    read=partial(bytes, image),
                )

    def _samples(self, tar: Place) -> Iterator[tuple[str, TarSample]]:
        """Yield each key with its members, once the next key begins and it has image and text.

        What lacks one of them waits for it to the end of the tar: some tars hold all images first.
        """
        waiting: dict[str, TarSample] = {}
        done: set[str] = set()
        size, last = 0, ""
        try:
            for member, read in tar_members(tar):
                key, suffix = _key_and_suffix(member.name)
                if not key:
                    continue  # no sample's member, such as a README
                if last != key and last in waiting and _whole(waiting[last]):
                    done.add(last)
                    size -= sum(map(len, waiting[last].values()))
                    yield last, waiting.pop(last)
                last, where = key, f"{tar.name}:{member.name}"
                if key in done:
                    self.skip(where, "its sample had image and text before")
                elif member.size > LARGEST_FILE:
                    self.skip(where, f"larger than {LARGEST_FILE // 2**20} MiB")
                else:
                    while waiting and size + member.size > MOST_WAITING:
                        oldest = next(iter(waiting))
                        done.add(oldest)
                        size -= sum(map(len, waiting[oldest].values()))
                        yield oldest, waiting.pop(oldest)
                    data = read()
                    size += len(data)
                    waiting.setdefault(key, {})[suffix] = data
            yield from waiting.items()
        except (tarfile.TarError, OSError, EOFError) as error:
            # The sample at hand is incomplete; what came before was good.
            self.skip(str(tar), f"the tar ends early, after {last or 'nothing'}: {error}")
            for key, sample in waiting.items():
                if key != last:
                    yield key, sample


def has_samples(tar: Place) -> bool:
    """Tell whether an image and another member of a tar are of one sample, adjacent or not.

    A tar of images with one split file has none such; the look ends at the first.
    """
    images: set[str] = set()
    others: set[str] = set()
    try:
        for member, _ in tar_members(tar):
            key, suffix = _key_and_suffix(member.name)
            own, other = (images, others) if suffix.endswith(IMAGE_SUFFIXES) else (others, images)
            if key and key in other:
                return True
            own.add(key)
    except (EOFError, OSError, tarfile.TarError):
        pass  # the reader reports it, after what can be read
    return False


def _key_and_suffix(member: str) -> tuple[str, str]:
    """Return the key of a member's sample and its suffix; no key if it is of none."""
    name = PurePosixPath(member)
    stem, dot, suffix = name.name.partition(".")
    return (str(name.parent / stem) if dot and stem else ""), f".{suffix.lower()}"


def _image(sample: TarSample) -> bytes | None:
    """Return the image of a sample; its suffix may have parts, as in `1.left.jpg`."""
    exact = (sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample)
    other = (data for suffix, data in sample.items() if suffix.endswith(IMAGE_SUFFIXES))
    return next(chain(exact, other), None)


def _whole(sample: TarSample) -> bool:
    return _image(sample) is not None and any(s in sample for s in (*TEXT_SUFFIXES, ".json"))


def _captions(sample: TarSample, options: SourceOptions, where: str) -> Any:
    """Return what the sample says in words; None if nothing."""
    text = next((sample[suffix] for suffix in TEXT_SUFFIXES if suffix in sample), None)
    if ".json" in sample and (options.caption_column or text is None):
        try:
            content = parse_json(sample[".json"])
        except ValueError:
            return None
        if not isinstance(content, dict):
            return None
        columns = caption_columns(content, options, where)
        return captions_in(content, columns)
    return None if text is None else decoded_bytes(text, where, options.encoding)
