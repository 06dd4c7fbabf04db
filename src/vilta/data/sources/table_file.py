"""Files that name images and their captions: CSV, TSV, JSON lines and JSON lists of many origins.

`metadata.csv` and `metadata.jsonl` of `datasets`, open_clip's CSV (`filepath`, `title`), Kaggle's
`captions.txt` of Flickr8k and `results.csv` of Flickr30k, the JSON lists of ALBEF, BLIP and LLaVA,
TextCaps, `{"1.jpg": ["a dog", ...]}`, and users' own files: the columns determine the layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vilta.data.sources.base import Item, Skipped, chosen_splits
from vilta.data.sources.columns import (
    caption_columns,
    captions_in,
    has_pairs,
    image_column,
    split_column,
)
from vilta.data.sources.downloads import refuse_url_list
from vilta.data.sources.files import NamedImagesReader, not_named
from vilta.data.sources.options import SourceOptions
from vilta.data.sources.tables import LINES, SEPARATED, columns_of, json_rows, separated_rows
from vilta.decoding import IMAGE_SUFFIXES

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.json")
"""Names of the file beside the images, as `datasets` has them and people write them."""
SUFFIXES = (*SEPARATED, *LINES, ".json")
HEAD = 1000
"""Rows whose fields, taken together, are the columns: rows of JSON may lack some."""
ADDRESSES = ("http://", "https://")

Line = tuple[str, dict[str, Any]]
"""A row, and what messages call it."""


class TableFileReader(NamedImagesReader):
    """A table; several rows for one image give it several captions."""

    what = "table of images and captions"

    def __init__(self, path: Path, options: SourceOptions, content: Any = None) -> None:
        unusable: list[Skipped] = []
        lines = _lines(path, options, content, unusable)
        head = list(islice(lines, HEAD))
        by_split: dict[str, dict[str, list[str]]] = {}
        if head:
            columns = list(dict.fromkeys(chain.from_iterable(row for _, row in head)))
            if "url" in map(str.lower, columns) and not has_pairs(columns, options):
                refuse_url_list(path, columns)
            image = image_column(columns, options, str(path))
            texts = caption_columns(columns, options, str(path))
            split = split_column(columns)
            for place, row in chain(head, lines):
                name, found, reason = _pair(row, image, texts)
                if name.startswith(ADDRESSES):
                    refuse_url_list(path)
                if reason:
                    unusable.append(Skipped(source=place, reason=reason))
                    continue
                captions = by_split.setdefault(str(row.get(split) or ""), {})
                captions.setdefault(name, []).extend(found)
        captions = _of_split(by_split, options.split, str(path), unusable)
        root = Path(options.images) if options.images else path.parent
        super().__init__(str(path), root, captions, "", unusable)
        self.alone = False
        """Whether it is the one table of its folder, and so should name every image there."""

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the table; count those that it does not name."""
        seen: set[Path] = set()
        for item in super().items():
            seen.add(Path(item.source))
            yield item
        if self.alone and not self.strict:
            self.skipped += not_named(self.root, seen)


def find_table(folder: Path, options: SourceOptions) -> TableFileReader | None:
    """Return the reader of the one table in a folder that names images and captions, or None.

    Raises ``ValueError`` if there are several of them and none is the split that is wanted.
    """
    named = [folder / name for name in METADATA if (folder / name).is_file()]
    found = named[:1] or [path for path in sorted(folder.iterdir()) if is_table(path, options)]
    if len(found) > 1 and options.split in (stems := [path.stem for path in found]):
        return TableFileReader(found[stems.index(options.split)], _without_split(options))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds several tables of captions; name one of them: {names}")
    if not found:
        return None
    reader = TableFileReader(found[0], options)
    reader.alone = not options.split and not options.images
    return reader


def is_table(path: Path, options: SourceOptions) -> bool:
    """Tell by its first row whether a file names images and captions; a .txt mostly does not."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        return False
    if suffix in SEPARATED:
        if suffix == ".txt" and any(path.with_suffix(end).exists() for end in IMAGE_SUFFIXES):
            return False  # the captions of one image
        return has_pairs(columns_of(path, lambda names: has_pairs(names, options)), options)
    try:
        first = next(iter(json_rows(path, options.encoding)), None)
    except ValueError:
        return False
    return first is not None and has_pairs(first[1] or (), options)


def table_captions(path: Path, options: SourceOptions) -> list[str]:
    """Return all captions of a table, whether their images are there or not."""
    return [c for found in TableFileReader(path, options).captions.values() for c in found]


def _without_split(options: SourceOptions) -> SourceOptions:
    return SourceOptions(**{**vars(options), "split": ""})


def _lines(
    path: Path, options: SourceOptions, content: Any, unusable: list[Skipped]
) -> Iterator[Line]:
    """Yield the rows of a file, whatever its form; what is none goes to ``unusable``."""
    if path.suffix.lower() in SEPARATED:
        for line, row in separated_rows(path, lambda c: has_pairs(c, options), options.encoding):
            yield f"{path}, line {line}", row
        return
    if isinstance(content, dict):  # a JSON file that was looked into already
        inner = next((v for v in content.values() if _is_list_of_rows(v)), None)
        named = [{"image": name, "captions": texts} for name, texts in content.items()]
        rows: Any = enumerate(named if inner is None else inner, start=1)
    else:
        rows = json_rows(path, options.encoding)
    for number, row in rows:
        place = f"{path}, {'line' if path.suffix.lower() in LINES else 'item'} {number}"
        if isinstance(row, dict):
            yield place, row
        else:
            unusable.append(Skipped(source=place, reason="not a JSON object"))


def _of_split(
    by_split: dict[str, dict[str, list[str]]], split: str, where: str, unusable: list[Skipped]
) -> dict[str, list[str]]:
    """Return the captions of the wanted splits, which must be named if there are several."""
    without = by_split.pop("", {})
    if not by_split and not split:
        return without
    unusable += [Skipped(source=f"{where}: {n}", reason="its split is empty") for n in without]
    captions: dict[str, list[str]] = {}
    for chosen in chosen_splits(by_split, split, where):
        for name, found in by_split[chosen].items():
            captions.setdefault(name, []).extend(found)
    return captions


def _is_list_of_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _pair(row: dict[str, Any], image: str, texts: list[str]) -> tuple[str, list[str], str]:
    """Return image name and captions of a row, or why there are none."""
    cell = row.get(image)
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, bool) or not isinstance(cell, str | int) or cell == "":
        return "", [], f"the column {image} names no image"
    try:
        return str(cell), captions_in(row, texts), ""
    except ValueError as error:
        return "", [], str(error)
