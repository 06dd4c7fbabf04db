"""A folder of images with a metadata file (the `imagefolder` convention), or a .txt beside each."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilta.data.sources.base import (
    IMAGE_SUFFIXES,
    Item,
    Reader,
    caption_column,
    chosen_split,
    clean_captions,
    listed,
)
from vilta.data.sources.downloads import failed_downloads

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of the metadata file, as `datasets` has them."""
FILE_COLUMN = "file_name"
"""Column of an image's path relative to the metadata file, as `datasets` has it."""


class MetadataReader(Reader):
    """Images named by a metadata file; several rows for one image give it several captions."""

    what = "image folder with a metadata file"

    def __init__(self, path: Path, split: str, column: str) -> None:
        super().__init__(str(path))
        self.path = path
        rows = [r for r in (_jsonl(self) if path.suffix == ".jsonl" else _csv(path)) if r]
        columns = list(dict.fromkeys(c for row in rows for c in row))
        if rows and FILE_COLUMN not in columns:
            raise ValueError(f"{path}: no column {FILE_COLUMN!r}; found: {listed(columns)}")
        if split:
            splits = dict.fromkeys(str(row["split"]) for row in rows if row.get("split"))
            chosen_split(splits, split, str(path))
            rows = [row for row in rows if row.get("split") == split]
        self.captions: dict[str, list[str]] = {}
        if rows:
            captions = caption_column(columns, column, str(path))
            for row in rows:
                name = str(row.get(FILE_COLUMN) or "")
                self.captions.setdefault(name, []).extend(clean_captions(row.get(captions)))

    @property
    def total(self) -> int:
        """Number of images that the file names."""
        return len(self.captions)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the file."""
        folder = self.path.parent
        for name, captions in self.captions.items():
            relative = os.path.normpath(name or ".")
            if os.path.isabs(relative) or relative.split(os.sep)[0] in ("..", "."):
                self.skip(f"{self.path}: {name!r}", "not a path below the metadata file")
                continue
            image = folder / relative
            yield Item(
                captions=captions, image_id=relative, source=str(image), read=image.read_bytes
            )


class TextFileReader(Reader):
    """Images with a text file of the same name beside each, one caption a line."""

    what = "image folder with a .txt beside each image"

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.images = list(_images_with_text(folder))

    @property
    def total(self) -> int:
        """Number of images that have a text file."""
        return len(self.images)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of their names."""
        for table in sorted(self.folder.glob("*.parquet")):  # what img2dataset leaves
            for key, reason in failed_downloads(table):
                self.skip(f"{table.stem}/{key}", reason)
        for image in self.images:
            try:
                text = image.with_suffix(".txt").read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                self.skip(str(image), f"its .txt cannot be read: {error.strerror}")
                continue
            yield Item(
                captions=text.splitlines(),
                image_id=str(image.relative_to(self.folder)),
                source=str(image),
                read=image.read_bytes,
            )


def find_image_folder(folder: Path, split: str, column: str) -> Reader | None:
    """Return the reader of an image folder, or None if it is none."""
    for name in METADATA:
        if (folder / name).is_file():
            return MetadataReader(folder / name, split, column)
    if next(_images_with_text(folder), None) is not None:
        if split:
            raise ValueError(f"{folder} has no splits; leave `split` empty")
        return TextFileReader(folder)
    return None


def _images_with_text(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        texts = {name for name in names if name.endswith(".txt")}
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES and f"{stem}.txt" in texts:
                yield Path(parent, name)


def _csv(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            return list(csv.DictReader(line.replace("\0", " ") for line in file))
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _jsonl(reader: MetadataReader) -> Iterator[dict[str, Any]]:
    with open(reader.path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                reader.skip(f"{reader.path}:{number}", f"not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield row
            else:
                reader.skip(f"{reader.path}:{number}", "not a JSON object")
