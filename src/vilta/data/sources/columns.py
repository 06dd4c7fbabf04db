"""Which column of a table is what: the names under which images and captions are published."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vilta.data.sources.base import clean_captions, listed
from vilta.data.sources.options import SourceOptions
from vilta.json_text import parse_json

CAPTION_COLUMNS = (
    "captions",
    "caption",
    "text",
    "texts",
    "sentences",
    "sentence",
    "txt",
    "title",
    "comment",
    "comments",
    "raw",
    "reference_strs",
    "caption_str",
    "caption_text",
    "blip_caption",
    "description",
    "alt_text",
    "conversations",
)
"""Where captions are looked for, in this order: `title` is open_clip's, `comment` Flickr30k's,
`raw` and `sentids` of its copy on the hub, `reference_strs` TextCaps', `conversations` LLaVA's."""
IMAGE_COLUMNS = (
    "image",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "img",
    "image_bytes",
    "file_name",
    "filename",
    "filepath",
    "file_path",
    "image_path",
    "img_path",
    "image_name",
    "img_name",
    "image_file",
    "images",
    "path",
    "file",
)
"""Where images, or their paths, are looked for: `file_name` is `datasets`', `filepath` open_clip's,
`image` ALBEF's, `image_name` Flickr30k's."""
SPLIT = "split"
"""Where it is looked for to which split a row belongs."""
_NUMBERED = re.compile(r"(?:captions?|texts?|sentences?|comments?|titles?)_?\d+")
"""One of several columns of captions: `caption_0`, `caption1`, ..."""


def caption_columns(columns: Iterable[str], options: SourceOptions, where: str) -> list[str]:
    """Return the columns that hold captions; a ``ValueError`` names those there are."""
    columns = list(columns)
    if options.caption_column:
        return [_named(columns, name, "caption", where) for name in _parts(options.caption_column)]
    known = _known(columns)
    for name in CAPTION_COLUMNS:
        if name in known:
            return [known[name]]
    if numbered := [column for name, column in known.items() if _NUMBERED.fullmatch(name)]:
        return numbered
    raise ValueError(
        f"{where}: no caption column {' / '.join(CAPTION_COLUMNS[:4])} or the like; name one of: "
        f"{listed(columns)} (--caption-column)"
    )


def image_column(columns: Iterable[str], options: SourceOptions, where: str) -> str:
    """Return the column that holds images or names them; a ``ValueError`` names those there are."""
    columns = list(columns)
    if options.image_column:
        return _named(columns, options.image_column, "image", where)
    known = _known(columns)
    for name in (*IMAGE_COLUMNS, "image_id"):  # a file's name without suffix, at worst
        if name in known:
            return known[name]
    raise ValueError(
        f"{where}: no column of images {' / '.join(IMAGE_COLUMNS[:1])} / file_name / filepath or "
        f"the like; name one of: {listed(columns)} (--image-column)"
    )


def split_column(columns: Iterable[str]) -> str:
    """Return what the column of splits is called here; ``split`` if there is none."""
    return _known(columns).get(SPLIT, SPLIT)


def has_pairs(columns: Iterable[str], options: SourceOptions) -> bool:
    """Tell whether these columns name images and captions."""
    columns = list(columns)
    try:
        image = image_column(columns, options, "")
        return [image] != caption_columns(columns, options, "")
    except ValueError:
        return False


def captions_in(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    """Return the captions in these columns of a row, clean; errors as :func:`captions_of`."""
    return [text for c in columns for text in clean_captions(captions_of(row.get(c)))]


def captions_of(cell: Any) -> Any:
    """Return the captions in a cell, also where it holds a list in writing, a dialogue, or
    Karpathy's sentences with ``raw`` and ``tokens``, as COCO's copies on the hub do.

    Raises ``ValueError`` for a dialogue of several turns, in which no line is a caption.
    """
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        for read in (parse_json, ast.literal_eval):
            try:
                found = read(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list) and all(isinstance(each, str) for each in found):
                return found
    if isinstance(cell, list) and cell and all(isinstance(e, dict) and "from" in e for e in cell):
        said = [each.get("value") for each in cell if each["from"] == "gpt"]
        if len(said) != 1 or len(cell) > 2:
            raise ValueError("a dialogue of several turns is not a caption")
        return said
    if isinstance(cell, dict) and "raw" in cell:
        return cell["raw"]
    if isinstance(cell, list) and cell and all(isinstance(e, dict) and "raw" in e for e in cell):
        return [each["raw"] for each in cell]
    return cell


def _known(columns: Iterable[str]) -> dict[str, str]:
    """Return columns by their names as they are compared; of equal ones the first."""
    known: dict[str, str] = {}
    for column in columns:
        known.setdefault(re.sub(r"[\s-]+", "_", str(column).strip().lower()), column)
    return known


def _named(columns: list[str], name: str, kind: str, where: str) -> str:
    if name not in columns:
        raise ValueError(f"{where}: no {kind} column {name}; name one of: {listed(columns)}")
    return name


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
