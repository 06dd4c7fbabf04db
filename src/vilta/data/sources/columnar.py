"""Parquet and Arrow files of any origin, read in pieces: the hub's, img2dataset's, METER's.

METER's and ViLT's files (`write_*.py`) are Arrow files with ``image`` (bytes), ``caption`` (a list
of texts) and mostly ``image_id`` and ``split``; img2dataset's Parquet has ``jpg``, ``caption``,
``key`` and ``status``; the hub's has ``image`` as a struct of ``bytes`` and ``path``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vilta.data.sources.base import (
    MANIFEST,
    Item,
    Place,
    Reader,
    caption_column,
    chosen_split,
    listed,
)
from vilta.data.sources.downloads import ERROR, STATUS, failure

SUFFIXES = (".parquet", ".arrow", ".feather")
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "img", "image_bytes")
"""Where images are looked for."""
ID_COLUMNS = ("image_id", "key", "id")
"""Where an image's name is looked for; without one it is the number of the row."""
SPLITS = {"train", "val", "validation", "dev", "test", "restval"}
"""Parts of file names that are taken for a split."""
BATCH = 64
"""Rows that are read at once: images are large."""


class ColumnarReader(Reader):
    """Files with a column of images and one of captions; a file that has not is skipped."""

    def __init__(self, files: Sequence[Place], name: str, what: str, column: str) -> None:
        super().__init__(name)
        self.files, self.what, self.column = files, what, column
        own = (files[0].parent / MANIFEST).is_file()  # written by `vilta pack`: its ids are unique
        self.counts_anew = len(files) > 1 and not own
        """Whether ids may start from 0 in each file."""

    @property
    def total(self) -> int | None:
        """Number of rows, which Parquet files know."""
        try:
            return sum(pq.ParquetFile(f).metadata.num_rows for f in self.files)
        except (OSError, pa.ArrowException):
            return None

    def count(self) -> int:
        """Return the number of items; Parquet files know theirs, downloads by their status."""
        if all(f.suffix == ".parquet" for f in self.files):
            with suppress(OSError, pa.ArrowException):
                return sum(map(_downloaded, self.files))
        return super().count()

    def items(self) -> Iterator[Item]:
        """Yield the rows in the order of the files."""
        for file in self.files:
            try:
                yield from self._rows_of(file)
            except (OSError, pa.ArrowException, ValueError) as error:
                self.skip(str(file), " ".join(str(error).split()))

    def _rows_of(self, path: Place) -> Iterator[Item]:
        number = 0
        for batch in _batches(path):
            names = batch.schema.names
            image = next((name for name in IMAGE_COLUMNS if name in names), None)
            if image is None:
                raise ValueError(f"no column of images ({listed(names)})")
            captions = caption_column(names, self.column, path.name)
            known = next((name for name in ID_COLUMNS if name in names), "")
            wanted = {image, captions, known, "status", "error_message"} & set(names)
            for row in batch.select(sorted(wanted)).to_pylist():
                source = f"{path.name}#{number}"
                number += 1
                if (reason := failure(row)) is not None:
                    self.skip(source, reason)
                    continue
                identity = row.get(known) if known else None
                image_id = f"{path.stem}#{number - 1}" if identity is None else str(identity)
                if identity is not None and self.counts_anew:
                    image_id = f"{path.stem}/{image_id}"
                yield Item(
                    captions=row[captions],
                    image_id=image_id,
                    source=source,
                    read=partial(_image_bytes, row[image], path.parent),
                )


def find_columnar(folder: Path, split: str, column: str) -> ColumnarReader | None:
    """Return the reader of a folder with Parquet or Arrow files, or None."""
    for suffix in SUFFIXES:
        files = sorted(folder.glob(f"*{suffix}")) or sorted((folder / "data").glob(f"*{suffix}"))
        if files:
            return columnar_reader(_of_split(files, split, folder), str(folder), column)
    return None


def columnar_reader(files: Sequence[Place], name: str, column: str) -> ColumnarReader:
    """Return the reader of files with the same suffix."""
    kind = "Parquet" if files[0].suffix == ".parquet" else "Arrow"
    return ColumnarReader(files, name, f"{kind} files", column)


def _of_split(files: list[Path], split: str, folder: Path) -> list[Path]:
    """Return the files whose name tells the split; all if no name tells one."""
    words = {f: set(re.split(r"[^a-z0-9]+", f.stem.lower())) & SPLITS for f in files}
    found = sorted(set().union(*words.values()))
    if not split and len(found) < 2:
        return files
    chosen = chosen_split(found, split, str(folder))
    return [f for f in files if chosen in words[f]]


def _batches(path: Place) -> Iterator[pa.RecordBatch]:
    """Read a file piece by piece; Arrow files come in a form with a footer and in one without."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(_source(path)) as table:
            yield from table.iter_batches(batch_size=BATCH)
        return
    with pa.memory_map(str(path)) if isinstance(path, Path) else path.open("rb") as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            stream: Callable[..., Any] = pa.ipc.open_stream
            batches: Iterator[pa.RecordBatch] = iter(stream(file))
        else:
            batches = map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            batch.validate(full=True)  # a damaged one could point anywhere in memory
            for start in range(0, batch.num_rows, BATCH):
                yield batch.slice(start, BATCH)


def _downloaded(path: Place) -> int:
    """Return the number of rows of a Parquet file that are no failed downloads."""
    with pq.ParquetFile(_source(path)) as table:
        known = [c for c in (STATUS, ERROR) if c in table.schema_arrow.names]
        if STATUS not in known:
            about = table.metadata
            return sum(about.row_group(i).num_rows for i in range(about.num_row_groups))
        rows = table.read(columns=known).to_pylist()
        return sum(failure(row) is None for row in rows)


def _source(path: Place) -> Any:
    """Return what Arrow opens itself, a local path, or an opened file of an object store."""
    return path if isinstance(path, Path) else path.open("rb")


def _image_bytes(cell: Any, folder: Place) -> bytes:
    """Return the bytes of a cell; ``OSError`` if it holds no image."""
    if isinstance(cell, dict):
        if cell.get("bytes") is None and isinstance(cell.get("path"), str):
            return (folder / cell["path"]).read_bytes()
        cell = cell.get("bytes")
    if not isinstance(cell, bytes):
        raise OSError(f"the image is a {type(cell).__name__}, not bytes")
    return cell
