"""A folder of images with a text file beside each: `.txt`, `.caption` or `.cap`, in any case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vilta.data.sources.base import APPLE_DOUBLE, TEXT_SUFFIXES, Item, Reader
from vilta.data.sources.downloads import failed_downloads
from vilta.data.sources.files import files_named
from vilta.data.sources.options import SourceOptions
from vilta.data.sources.tables import decoded_bytes, lines_of
from vilta.decoding import IMAGE_SUFFIXES, bounded_bytes

Pair = tuple[Path, Path | None]
"""An image, and the text beside it if there is one."""


class TextFileReader(Reader):
    """Images with a text file of the same name beside each, one caption a line."""

    what = "image folder with a text file beside each image"

    def __init__(self, folder: Path, encoding: str) -> None:
        super().__init__(str(folder))
        self.folder, self.encoding = folder, encoding
        self.pairs = list(_pairs(folder))

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.pairs)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of their names."""
        for table in files_named(self.folder, "*.parquet"):  # what img2dataset leaves
            for key, reason in failed_downloads(table):
                self.skip(f"{table.stem}/{key}", reason)
        for image, text in self.pairs:
            if text is None:
                if not self.strict:  # which is about what was meant to be used
                    self.skip(str(image), "no caption: there is no text file beside it")
                continue
            try:
                content = decoded_bytes(bounded_bytes(text), str(text), self.encoding)
            except (ValueError, OSError) as error:
                self.skip(str(image), str(error))
                continue
            yield Item(
                captions=lines_of(content),
                image_id=str(image.relative_to(self.folder)),
                source=str(image),
                read=partial(bounded_bytes, image),
            )


def find_image_folder(folder: Path, options: SourceOptions) -> TextFileReader | None:
    """Return the reader of a folder whose images have texts beside them, or None."""
    if not any(text for _, text in _pairs(folder)):
        return None
    if options.split:
        raise ValueError(f"{folder} has no splits; leave `split` empty")
    return TextFileReader(folder, options.encoding)


def _pairs(folder: Path) -> Iterator[Pair]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        names = [name for name in names if not name.startswith(APPLE_DOUBLE)]
        texts = {name.lower(): name for name in names if name.lower().endswith(TEXT_SUFFIXES)}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                exact = (f"{stem}{end}" for end in TEXT_SUFFIXES)
                known = next((texts[t.lower()] for t in exact if t.lower() in texts), None)
                yield Path(parent, name), Path(parent, known) if known else None
