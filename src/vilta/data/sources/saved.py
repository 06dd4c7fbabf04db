"""Tables that are tables already: packed by `vilta pack`, saved by `datasets`, or drawn scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import datasets
import pyarrow as pa

from vilta.data.sources.base import (
    FEATURES,
    MANIFEST,
    Item,
    Reader,
    caption_column,
    chosen_split,
    listed,
)

SAVED = ("state.json", "dataset_dict.json")
"""Files by which a folder saved by `datasets` is known."""
SCENES = "scenes:"
"""What the name of the built-in source begins with."""


class TableReader(Reader):
    """A table with an image column and a caption column; the ids may be missing."""

    def __init__(self, content: datasets.Dataset, name: str, what: str, column: str = "") -> None:
        super().__init__(name)
        self.what, self.content = what, content
        images = [c for c, f in content.features.items() if isinstance(f, datasets.Image)]
        if not images:
            found = listed(content.column_names)
            raise ValueError(f"{name}: no column of images; found: {found}")
        self.image = "image" if "image" in images else images[0]
        self.captions = caption_column(content.column_names, column, name)

    @property
    def total(self) -> int:
        """Number of rows."""
        return len(self.content)

    def items(self) -> Iterator[Item]:
        """Yield the rows in order."""
        plain = self.content.cast_column(self.image, datasets.Image(decode=False))
        for number, row in enumerate(plain):
            where = f"{self.name}#{number}"
            yield Item(
                captions=row[self.captions],
                image_id=where if row.get("image_id") is None else str(row["image_id"]),
                source=where if row.get("source") is None else str(row["source"]),
                read=partial(_cell_bytes, row[self.image]),
            )

    def table(self) -> datasets.Dataset:
        """Return the table itself, still mapped from disk, if it is a pair table."""
        if self.content.features != FEATURES or self.captions != "captions":
            return super().table()
        if len(self.content) == 0:
            raise ValueError(f"{self.name} ({self.what}) is empty")
        return self.content


def find_saved(folder: Path, split: str, column: str) -> TableReader | None:
    """Return the reader of a folder in the on-disk layout of `datasets`, or None."""
    if not any((folder / name).is_file() for name in SAVED):
        return None
    try:
        content = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"{folder} was saved by `datasets` but cannot be opened: {line}") from None
    name, what = str(folder), "folder saved by `datasets`"
    if isinstance(content, datasets.DatasetDict):
        split = chosen_split(map(str, content), split, name)
        return TableReader(content[split], f"{name}/{split}", what, column)
    if (folder / MANIFEST).is_file():
        what = "packed pairs"
    if split:
        chosen_split(_packed_splits(folder), split, name)
    return TableReader(content, name, what, column)


def find_hub(name: str, split: str, column: str) -> TableReader:
    """Return the reader of a data set of the hub; ``datasets`` downloads and keeps it."""
    try:
        content = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ValueError(f"hub:{name} cannot be loaded: {line}") from None
    split = chosen_split(map(str, content), split, f"hub:{name}")
    return TableReader(content[split], f"hub:{name}/{split}", "data set of the hub", column)


def find_scenes(path: str, split: str) -> TableReader | None:
    """Return the built-in scenes named by ``path`` (see :func:`scenes_named`), or None."""
    if (named := scenes_named(path)) is None:
        return None
    if split:
        raise ValueError(f"{path} has no splits; choose another seed or first instead")
    from vilta.scenes import scenes_table

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


def _packed_splits(folder: Path) -> list[str]:
    """Return the split that a packed folder was made of, if it was made of one."""
    try:
        split = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("split")
    except (OSError, ValueError):
        return []
    return [split] if split else []


def _cell_bytes(cell: dict[str, Any] | None) -> bytes:
    """Return the bytes of an undecoded image cell; none for an empty cell."""
    if not cell:
        return b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    return Path(cell["path"]).read_bytes()
