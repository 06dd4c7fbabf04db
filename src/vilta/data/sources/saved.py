"""Tables that are tables already: packed by `vilta pack`, saved by `datasets`, or drawn scenes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from vilta.data.sources.base import (
    FEATURES,
    MANIFEST,
    Item,
    Reader,
    chosen_split,
    chosen_splits,
    clean_captions,
    listed,
    manifest_of,
    nothing_usable,
    rows_with_captions,
)
from vilta.data.sources.columns import caption_columns, captions_in, image_column, split_column
from vilta.data.sources.files import read_json
from vilta.data.sources.image_cells import files_below, image_bytes, path_in
from vilta.data.sources.options import SourceOptions
from vilta.decoding import bounded_bytes

SAVED = ("state.json", "dataset_dict.json")
"""Files by which a folder saved by `datasets` is known."""
SCENES = "scenes:"
"""What the name of the built-in source begins with."""


class TableReader(Reader):
    """A table with an image column and a caption column; the ids may be missing."""

    def __init__(
        self,
        content: datasets.Dataset,
        name: str,
        what: str,
        options: SourceOptions | None = None,
        root: Path | None = None,
    ) -> None:
        super().__init__(name)
        options = options or SourceOptions()
        self.what, self.content = what, _rows_of_split(content, options.split, name)
        self.root = root
        self.file_bytes = files_below(Path(options.images) if options.images else root or Path())
        images = [c for c, f in content.features.items() if isinstance(f, datasets.Image)]
        if "image" in images or len(images) != 1 or options.image_column:
            self.image = image_column(content.column_names, options, name)
        else:
            self.image = images[0]
        self.captions = caption_columns(content.column_names, options, name)

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self.content)

    def items(self) -> Iterator[Item]:
        """Yield the rows in order."""
        plain = self.content
        if isinstance(plain.features[self.image], datasets.Image):
            plain = plain.cast_column(self.image, datasets.Image(decode=False))
        for number, row in enumerate(plain):
            where = f"{self.name}#{number}"
            try:
                texts = captions_in(row, self.captions)
            except ValueError as error:
                self.skip(where, str(error))
                continue
            yield Item(
                captions=texts,
                image_id=where if row.get("image_id") is None else str(row["image_id"]),
                source=where if row.get("source") is None else str(row["source"]),
                read=partial(self._bytes, row[self.image]),
            )

    def _bytes(self, cell: Any) -> bytes:
        """Return the image of a cell; none for an empty one."""
        place = path_in(cell)
        if place and self.root is None and os.path.isabs(place):
            return _cached_bytes(place)  # `datasets` has made it absolute
        return image_bytes(cell, self.file_bytes) if cell else b""

    def table(self) -> datasets.Dataset:
        """Return the table itself, mapped from disk, if it is a pair table as it should be."""
        if self.content.features != FEATURES or self.captions != ["captions"]:
            return super().table()
        if _names_files(self.content):  # which must lie below the folder, and are looked for there
            return super().table()
        if len(self.content) == 0:
            raise ValueError(f"{self.name} ({self.what}) is empty")
        return self._with_captions() if _lacks_captions(self.content) else self.content

    def _with_captions(self) -> datasets.Dataset:
        """Return the rows that have captions, with these alone; the images stay mapped."""
        captions = [clean_captions(texts) for texts in self.content["captions"][:]]
        rows = [row for row, texts in enumerate(captions) if texts]
        for row in sorted(set(range(len(captions))) - set(rows)):
            self.skip(f"{self.name}#{row}", "no caption")
        if not rows:
            raise ValueError(nothing_usable(self, self.skipped))
        self.warn_of_skipped()
        return rows_with_captions(self.content, rows, [captions[row] for row in rows])


def _names_files(content: datasets.Dataset) -> bool:
    """Whether an image is the path of a file instead of its bytes; rows are not read for it."""
    for chunk in content.data.column("image").chunks:
        inside, paths = chunk.field("bytes"), chunk.field("path")
        if pc.any(pc.and_(inside.is_null(), paths.is_valid())).as_py():
            return True
    return False


def _lacks_captions(content: datasets.Dataset) -> bool:
    """Whether a row has no caption, or a caption says nothing; Python sees none of them."""
    lists = content.data.column("captions")
    texts = pc.list_flatten(lists)
    some = pc.greater(pc.list_value_length(lists), 0)
    says = pc.and_not(pc.not_equal(texts, ""), pc.utf8_is_space(texts))
    return not all(pc.all(pc.fill_null(each, False)).as_py() for each in (some, says))


def _cached_bytes(path: str) -> bytes:
    """Return a file that ``datasets`` has downloaded; ``OSError`` for any other one.

    Which path a row names is up to whoever wrote the data set.
    """
    place, cache = os.path.realpath(path), os.path.realpath(datasets.config.HF_CACHE_HOME)
    if os.path.commonpath([place, cache]) != cache:
        raise OSError(f"it is the file {path}, which is not part of the data set")
    return bounded_bytes(place)


def find_saved(folder: Path, options: SourceOptions) -> TableReader | None:
    """Return the reader of a folder in the on-disk layout of `datasets`, or None."""
    if not any((folder / name).is_file() for name in SAVED):
        return None
    _check_saved(folder)
    try:
        # Its own format may hide columns, or give rows as something else.
        content = datasets.load_from_disk(str(folder)).with_format(None)
        _check_data(content)
    except (*_UNREADABLE, pa.ArrowException) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{folder} was saved by `datasets` but cannot be opened: {line}") from None
    name, what = str(folder), "folder saved by `datasets`"
    if isinstance(content, datasets.DatasetDict):
        split, options = _split_or_column(content, options, name)
        return TableReader(content[split], f"{name}/{split}", what, options, folder)
    if (folder / MANIFEST).is_file():
        what = "packed pairs"
    if options.split and split_column(content.column_names) not in content.column_names:
        chosen_split(_packed_splits(folder), options.split, name)
        options = replace(options, split="")
    return TableReader(content, name, what, options, folder)


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What `datasets` raises for metadata that it has not written."""


def _check_data(content: Any) -> None:
    """Raise ``ArrowInvalid`` for offsets that point anywhere in memory; pixels are not read."""
    for table in content.values() if isinstance(content, dict) else [content]:
        for column in table.data.itercolumns():
            column.validate(full=True)


def _check_saved(folder: Path) -> None:
    """Raise ``ValueError`` that names the file and field of metadata which cannot be right."""
    for name, fields in _SAVED_FIELDS.items():
        path = folder / name
        if not path.is_file():
            continue
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path} is not what `datasets` writes: it holds no object")
        for field, kind in fields.items():
            if not isinstance(content.get(field), kind):
                raise ValueError(f"{path} is not what `datasets` writes: field {field!r} is wrong")
        for each in content.get("_data_files", []):
            file = each.get("filename") if isinstance(each, dict) else None
            if not isinstance(file, str) or file in ("", "..") or Path(file).name != file:
                raise ValueError(
                    f"{path}: field '_data_files' must name files of this folder, not "
                    f"{listed([each])}"
                )


_SAVED_FIELDS: dict[str, dict[str, type]] = {
    "state.json": {"_data_files": list},
    "dataset_info.json": {"features": dict},
    "dataset_dict.json": {"splits": list},
}
"""The fields without which a folder cannot be opened."""


def find_hub(name: str, options: SourceOptions) -> TableReader:
    """Return the reader of a data set of the hub; ``datasets`` downloads and keeps it."""
    try:
        content = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"hub:{name} cannot be loaded: {line}") from None
    split, options = _split_or_column(content, options, f"hub:{name}")
    return TableReader(content[split], f"hub:{name}/{split}", "data set of the hub", options)


def find_scenes(path: str, split: str) -> TableReader | None:
    """Return the built-in scenes named by ``path`` (see :func:`scenes_named`), or None."""
    if (named := scenes_named(path)) is None:
        return None
    if split:
        raise ValueError(f"{path} has no splits; choose another seed or first instead")
    from vilta.data.sources.scenes import scenes_table

    return TableReader(scenes_table(**asdict(named)), path, "built-in scenes")


@dataclass(frozen=True, kw_only=True)
class ScenesName:
    """Which scenes: ``count`` of split ``seed`` from ``first`` on, drawn ``size`` pixels a side."""

    count: int
    seed: int = 0
    size: int = 96
    first: int = 0


def scenes_named(path: str) -> ScenesName | None:
    """Read ``scenes:COUNT?seed=S&size=PIXELS&first=I``; None if the path is something else.

    Raises ``ValueError`` if it begins like that and is not.
    """
    if not path.startswith(SCENES):
        return None
    count, _, query = path.removeprefix(SCENES).partition("?")
    try:
        settings = {key: int(value) for key, value in parse_qsl(query, strict_parsing=bool(query))}
        named = ScenesName(count=int(count), **settings)
    except (ValueError, TypeError):
        named = ScenesName(count=0)
    if named.count < 1:
        raise ValueError(f"{path!r} is not scenes:COUNT?seed=S&size=PIXELS&first=I")
    return named


def _split_or_column(
    content: dict[Any, datasets.Dataset], options: SourceOptions, where: str
) -> tuple[str, SourceOptions]:
    """Return the split to take, and the options for its column ``split``.

    Flickr30k on the hub, say, is one split, whose column holds the real ones.
    """
    splits = list(map(str, content))
    columns = content[splits[0]].column_names if len(splits) == 1 else []
    if split_column(columns) in columns:
        return splits[0], options
    return chosen_split(splits, options.split, where), replace(options, split="")


def _rows_of_split(content: datasets.Dataset, split: str, name: str) -> datasets.Dataset:
    """Return the rows whose column ``split`` is the wanted one, if there is such a column."""
    if (place := split_column(content.column_names)) not in content.column_names:
        return content
    column = content[place][:]
    known = sorted({str(value) for value in column if value not in (None, "")})
    if not known and not split:
        return content
    wanted = set(chosen_splits(known, split, name))
    return content.select([row for row, value in enumerate(column) if str(value) in wanted])


def _packed_splits(folder: Path) -> list[str]:
    """Return the split that a packed folder was made of, if it was made of one."""
    split = manifest_of(folder).get("split")
    return [split] if isinstance(split, str) and split else []
