"""Parquet and Arrow files of any origin, read in pieces: the hub's, img2dataset's, METER's.

METER's and ViLT's files (`write_*.py`) are Arrow files with ``image`` (bytes), ``caption`` (a list
of texts) and mostly ``image_id`` and ``split``; img2dataset's Parquet has ``jpg``, ``caption``,
``key`` and ``status``; the hub's has ``image`` as a struct of ``bytes`` and ``path``.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vilta.data.sources.base import (
    MANIFEST,
    Item,
    Place,
    Reader,
    chosen_splits,
)
from vilta.data.sources.columns import (
    caption_columns,
    captions_in,
    has_pairs,
    image_column,
    split_column,
)
from vilta.data.sources.downloads import ERROR, STATUS, failure, refuse_url_list
from vilta.data.sources.files import ImageFiles, files_named, not_named
from vilta.data.sources.image_cells import files_below, image_bytes, path_in
from vilta.data.sources.options import SourceOptions
from vilta.decoding import LARGEST_FILE

SUFFIXES = (".parquet", ".arrow", ".feather")
ID_COLUMNS = ("image_id", "key", "id")
"""Where an image's name is looked for; without one it is the number of the row."""
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "restval"}
"""Parts of file names that are taken for a split."""
AnyFile = TypeVar("AnyFile", Path, Place, str)
BATCH = 64
"""Rows that are read at once: images are large."""


class ColumnarReader(Reader):
    """Files with a column of images and one of captions; a file that has not is skipped.

    With ``by_name`` the files are those with the wanted split in their names.
    """

    def __init__(
        self,
        files: Sequence[Place],
        name: str,
        what: str,
        options: SourceOptions,
        by_name: bool = False,
    ) -> None:
        super().__init__(name)
        self.files, self.what, self.options, self.by_name = files, what, options, by_name
        own = (files[0].parent / MANIFEST).is_file()  # written by `vilta pack`: its ids are unique
        self.counts_anew = len(files) > 1 and not own
        """Whether ids may start from 0 in each file."""
        self.alone = False
        """Whether it is the one table of its folder, and so should name every image there."""

    @property
    def total(self) -> int | None:
        """Number of rows, which Parquet files know."""
        try:
            return sum(pq.ParquetFile(f).metadata.num_rows for f in self.files)
        except (OSError, pa.ArrowException):
            return None

    def count(self) -> int:
        """Return the number of items; in Parquet files no image is read for it."""
        if not self.splits and all(f.suffix == ".parquet" for f in self.files):
            with suppress(OSError, pa.ArrowException):
                return sum(map(self._count, self.files))
        return super().count()

    def _count(self, path: Place) -> int:
        """Return how many rows of a Parquet file are items; only what decides on one is read."""
        with pq.ParquetFile(_source(path)) as table:
            schema = table.schema_arrow
            try:
                _check_sizes(table)
                _, captions = self._columns(path, schema.names)
            except ValueError:  # reading reports it
                return 0
            dialogues = [c for c in captions if _holds_objects(schema.field(c).type)]
            downloads = [c for c in (STATUS, ERROR) if STATUS in schema.names and c in schema.names]
            if not dialogues and not downloads:
                about = table.metadata
                return sum(about.row_group(i).num_rows for i in range(about.num_row_groups))
            batches = table.iter_batches(columns=[*downloads, *dialogues])
            rows = (row for batch in batches for row in batch.to_pylist())
            return sum(_is_item(row, dialogues) for row in rows)

    @cached_property
    def splits(self) -> set[str]:
        """The splits whose rows are read, by their column `split`; none where all rows are.

        Raises ``ValueError`` if there are several and none is named.
        """
        known: set[str] = set()
        for file in self.files:
            with suppress(OSError, pa.ArrowException):  # reading reports it
                known |= _splits_of(file)
        wanted = self.options.split
        if not known and (self.by_name or not wanted):
            return set()
        if self.by_name and len(known) == 1 and wanted not in known:
            return set()  # the names say `validation`, the column `val`
        return set(chosen_splits(sorted(known), wanted, self.name))

    def items(self) -> Iterator[Item]:
        """Yield the rows in the order of the files."""
        splits = self.splits
        paths: list[str] = []
        for file in self.files:
            try:
                yield from self._rows_of(file, splits, paths)
            except (OSError, pa.ArrowException, ValueError) as error:
                self.skip(str(file), " ".join(str(error).split()))
        if self.alone and not self.strict:
            self._count_unnamed(paths)

    def _count_unnamed(self, paths: list[str]) -> None:
        root = self.files[0].parent
        assert isinstance(root, Path), "a folder of this machine"
        files, named = ImageFiles(root), set[Path]()
        for path in paths:
            with suppress(ValueError):  # several fit, which reading has told
                named |= {found for found in [files.find(path)] if found is not None}
        self.skipped += not_named(root, named)

    def _columns(self, path: Place, names: list[str]) -> tuple[str, list[str]]:
        """Return the column of images and those of captions, without which it is an error."""
        if "url" in map(str.lower, names) and not has_pairs(names, self.options):
            refuse_url_list(path, names)
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"{path.name}: two columns are called {twice[0]!r}")
        image = image_column(names, self.options, path.name)
        return image, caption_columns(names, self.options, path.name)

    def _rows_of(self, path: Place, splits: set[str], paths: list[str]) -> Iterator[Item]:
        """Yield the rows of a file; the paths that its images have go to ``paths``."""
        number = 0
        file_bytes = files_below(Path(self.options.images) if self.options.images else path.parent)
        for batch in _batches(path):
            names = batch.schema.names
            image, captions = self._columns(path, names)
            known = next((name for name in ID_COLUMNS if name in names and name != image), "")
            split = split_column(names)
            wanted = {image, *captions, known, split, "status", "error_message"} & set(names)
            for row in batch.select(sorted(wanted)).to_pylist():
                source = f"{path.name}#{number}"
                number += 1
                if place := path_in(row[image]):
                    paths.append(place)
                if splits and row.get(split) not in splits:
                    continue
                try:
                    texts = _texts(row, captions)
                except ValueError as error:
                    self.skip(source, str(error))
                    continue
                identity = row.get(known) if known else None
                if identity is None:
                    image_id = f"{path.stem}#{number - 1}"
                else:
                    image_id = f"{path.stem}/{identity}" if self.counts_anew else str(identity)
                yield Item(
                    captions=texts,
                    image_id=place or image_id,
                    source=source,
                    read=partial(image_bytes, row[image], file_bytes),
                )


def find_columnar(folder: Path, options: SourceOptions) -> ColumnarReader | None:
    """Return the reader of a folder with Parquet or Arrow files, or None."""
    for suffix in SUFFIXES:
        name = f"*{suffix}"
        files = files_named(folder, name) or files_named(folder / "data", name)
        if files:
            return columnar_reader(files, str(folder), options)
    return None


def columnar_reader(files: Sequence[Place], name: str, options: SourceOptions) -> ColumnarReader:
    """Return the reader of files with the same suffix, of those that are the wanted split."""
    kind = "Parquet" if files[0].suffix == ".parquet" else "Arrow"
    chosen = files_of_split(files, options.split, name, may_have_column=True)
    by_name = bool(options.split) and chosen is not None
    return ColumnarReader(
        files if chosen is None else chosen, name, f"{kind} files", options, by_name
    )


def files_of_split(
    files: Sequence[AnyFile], split: str, where: str, may_have_column: bool = False
) -> Sequence[AnyFile] | None:
    """Return the files with the split in their names; all if no name has one.

    The names of folders below what was named, ``where``, are part of theirs. None if the names do
    not know the split that is wanted, where a column may. Raises ``ValueError`` if there are
    several splits and none is named, or one that is not there.
    """
    names = (_below(where, str(file)) for file in files)
    words = [SPLITS.intersection(re.split(r"[^a-z0-9]+", name.lower())) for name in names]
    found = sorted(set().union(*words))
    if not split and len(found) < 2:
        return files
    if may_have_column and len(found) < 2 and split not in found:
        return None
    chosen = set(chosen_splits(found, split, where))
    return [file for file, known in zip(files, words, strict=True) if chosen & known]


def _below(where: str, file: str) -> str:
    """Return a file's path without the folders that it shares with what was named."""
    parts, named = (posixpath.normpath(each).split("/") for each in (file, where))
    return "/".join(parts[len(posixpath.commonprefix([parts[:-1], named])) :])


def _batches(path: Place) -> Iterator[pa.RecordBatch]:
    """Read a file piece by piece; Arrow files come in a form with a footer and in one without."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(_source(path)) as table:
            _check_sizes(table)
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


def _check_sizes(table: pq.ParquetFile) -> None:
    """Raise ``ValueError`` if rows unpack to more than a file may have: kilobytes can do it."""
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        if group.total_byte_size > LARGEST_FILE * max(1, group.num_rows):
            raise ValueError(f"its rows are larger than {LARGEST_FILE // 2**20} MiB each")


def _texts(row: Mapping[str, Any], captions: Sequence[str]) -> list[str]:
    """Return the captions of a row; a ``ValueError`` says why it is no item."""
    if (reason := failure(row)) is not None:
        raise ValueError(reason)
    return captions_in(row, captions)


def _is_item(row: Mapping[str, Any], captions: Sequence[str]) -> bool:
    try:
        _texts(row, captions)
    except ValueError:
        return False
    return True


def _holds_objects(kind: pa.DataType) -> bool:
    """Tell whether these are lists of objects: of captions, only dialogues can be refused."""
    return isinstance(getattr(kind, "value_type", None), pa.StructType)


def _source(path: Place) -> Any:
    """Return what Arrow opens itself, a local path, or an opened file of an object store."""
    return path if isinstance(path, Path) else path.open("rb")


def _splits_of(path: Place) -> set[str]:
    """Return the values of a file's column `split`; none if it has none."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(_source(path)) as table:
            split = split_column(names := table.schema_arrow.names)
            if split not in names:
                return set()
            values = table.read(columns=[split]).column(0).unique().to_pylist()
    else:
        named = ((batch, split_column(batch.schema.names)) for batch in _batches(path))
        parts = (b.column(b.schema.names.index(s)) for b, s in named if s in b.schema.names)
        values = [value for part in parts for value in part.unique().to_pylist()]
    return {value for value in values if isinstance(value, str) and value}
