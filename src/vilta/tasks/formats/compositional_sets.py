"""The published sets of fine-grained matching, field for field.

SugarCrepe (arXiv 2306.14610), SugarCrepe++ (arXiv 2406.11171), ARO (arXiv 2210.01936), Winoground
(arXiv 2204.03162), VALSE (arXiv 2112.07566); and a CSV of one's own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vilta.data.images import Images
from vilta.data.sources.base import listed
from vilta.data.sources.files import files_named, read_json
from vilta.decoding import decode_image
from vilta.tasks.finetuning import ItemRow
from vilta.tasks.formats.aro import ORDER_FILES, order_texts
from vilta.tasks.formats.csv_lines import csv_lines, is_csv
from vilta.tasks.formats.json_lines import field, json_lines, list_field

LARGEST_BOX = 1_000_000
"""Pixels of a side of a box; no image is larger."""
PART = re.compile(r"(.+)#(-?\d+,-?\d+,-?\d+,-?\d+)", re.DOTALL)
"""A key that asks for a part of an image; any other # belongs to the name of a file."""
AGREED = 2
"""Annotators of three who must have chosen VALSE's caption (its authors' rule)."""


def read_set(path: str) -> list[ItemRow]:
    """Read a file, or every JSON file of a folder; the set is detected from the content."""
    place = Path(path)
    files = files_named(place, "*.json*") if place.is_dir() else [place]
    if not files:
        raise ValueError(f"{path} holds no JSON files")
    return [row for file in files for row in _read_file(file)]


def _read_file(path: Path) -> list[ItemRow]:
    if is_csv(path):
        return _csv_rows(path)
    content: Any = json_lines(path) if path.suffix == ".jsonl" else read_json(path)
    numbered = enumerate(content) if isinstance(content, list) else ()
    items = list(content.items() if isinstance(content, dict) else numbered)
    if not items or not all(isinstance(item, dict) for _, item in items):
        raise ValueError(f"{path} holds no items, or one that is not a JSON object")
    fields = {name for _, item in items for name in item}
    # Retrieval's files look like ARO's order; only the name distinguishes them.
    order = path.stem in ORDER_FILES
    read = _aro_captions if order else next((READERS[m] for m in READERS if m in fields), None)
    if read is None:
        raise ValueError(
            f"{path} is not a supported set of captions: its items have {listed(items[0][1])},"
            f" none has {', '.join(READERS)}; ARO's order files are known by name"
            f" ({', '.join(ORDER_FILES)})"
        )
    return [row for name, item in items for row in read(item, f"{path.stem}-{name}", path)]


def _text(item: dict[str, Any], name: str, path: Path) -> str:
    """Return a field's text, which some of VALSE's files wrap in a list."""
    value = field(item, name, path)
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str):
        raise ValueError(f"{path}: {name!r} of an item must be a text, not {listed([value])}")
    return text


def _winoground(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    images = [str(field(item, f"image_{i}", path)) for i in (0, 1)]
    texts = [_text(item, f"caption_{i}", path) for i in (0, 1)]
    category = str(item.get("collapsed_tag") or item.get("tag") or "all")
    return [row_of(name, images, texts, [1, 0], "winoground", category)]


def _valse(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    if votes := item.get("mturk"):
        agreed = field(votes, "caption", path)
        if not isinstance(agreed, int):
            raise ValueError(f"{path}: 'caption' of 'mturk' must be a number of votes")
        if agreed < AGREED:
            return []
    image = str(field(item, "image_file", path))
    texts = [_text(item, "caption", path), _text(item, "foil", path)]
    return [row_of(name, [image], texts, [1, 0], "valse", path.stem)]


def _aro(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    image = str(field(item, "image_path", path))
    if "bbox_x" in item:
        box = [field(item, f"bbox_{side}", path) for side in "xywh"]
        if not all(isinstance(side, int | float) and abs(side) < LARGEST_BOX for side in box):
            raise ValueError(f"{path}: the box of an item must be four numbers: {listed(box)}")
        image = f"{image}#{','.join(str(int(side)) for side in box)}"
    texts = [_text(item, "true_caption", path), _text(item, "false_caption", path)]
    if "relation_name" in item:
        source, category = "aro-relation", str(item["relation_name"])
    else:
        source, category = (
            "aro-attribution",
            "_".join(map(str, list_field(item, "attributes", path))),
        )
    return [row_of(name, [image], texts, [1, 0], source, category)]


def _aro_captions(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    return [
        row
        for number, caption in enumerate(list_field(item, "caption", path))
        for row in _order_rows(item, f"{name}-{number}", path, order_texts(caption))
    ]


def _aro_options(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    return _order_rows(item, name, path, [str(text) for text in list_field(item, OPTIONS, path)])


def _order_rows(item: dict[str, Any], name: str, path: Path, texts: list[str]) -> list[ItemRow]:
    image = str(field(item, "image", path))
    if len(texts) < 2:  # one word cannot be shuffled
        return []
    truth = [1] + [0] * (len(texts) - 1)
    return [row_of(name, [image], texts, truth, "aro-order", path.stem)]


def _sugarcrepe(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    texts = [_text(item, "caption", path), _text(item, "negative_caption", path)]
    image = str(field(item, "filename", path))
    return [row_of(name, [image], texts, [1, 0], "sugarcrepe", path.stem)]


def _sugarcrepe_plus_plus(item: dict[str, Any], name: str, path: Path) -> list[ItemRow]:
    texts = [_text(item, key, path) for key in ("caption", "negative_caption", "caption2")]
    image = str(field(item, "filename", path))
    return [row_of(name, [image], texts, [1, 0, 1], "sugarcrepe++", path.stem)]


OPTIONS = "caption_options"
READERS: dict[str, Callable[[dict[str, Any], str, Path], list[ItemRow]]] = {
    "caption_0": _winoground,
    "foil": _valse,
    "true_caption": _aro,
    OPTIONS: _aro_options,
    "caption2": _sugarcrepe_plus_plus,
    "negative_caption": _sugarcrepe,
}
"""A field that only this set has (the first that is found counts), and what makes rows of an item.

ARO's own code holds the items of its order with ``caption_options`` in memory; no published file
has them.
"""
PUBLISHED = (
    "aro-attribution",
    "aro-order",
    "aro-relation",
    "sugarcrepe",
    "sugarcrepe++",
    "valse",
    "winoground",
)
"""Sets that are measured as their authors do; a CSV of one's own may be called like one."""


def _csv_rows(path: Path) -> list[ItemRow]:
    """Columns image, caption, edit; and paraphrase and category where there are such."""
    rows, name = [], f"csv-{path.stem}" if path.stem in PUBLISHED else path.stem
    for number, line in enumerate(csv_lines(path, ("image", "caption", "edit"))):
        texts, truth = [line["caption"], line["edit"]], [1, 0]
        if line.get("paraphrase"):
            texts, truth = [*texts, line["paraphrase"]], [1, 0, 1]
        category = line.get("category") or "all"
        rows.append(row_of(str(number), [line["image"]], texts, truth, name, category))
    return rows


def row_of(
    name: str, images: list[str], texts: list[str], truth: list[int], source: str, category: str
) -> ItemRow:
    """Return a row of ``FineGrainedMatching``."""
    return {
        "id": name,
        "images": images,
        "texts": texts,
        "truth": truth,
        "set": source,
        "category": str(category),
    }


class CroppedImages:
    """Images of which a key may ask for a part: ``name#x,y,width,height`` in pixels."""

    def __init__(self, images: Images) -> None:
        self.images, self.name = images, images.name

    def __contains__(self, key: str) -> bool:
        return _name_and_box(key)[0] in self.images

    def read(self, key: str) -> bytes:
        """Return the bytes of an image, or its part as PNG."""
        name, box = _name_and_box(key)
        data = self.images.read(name)
        if not box:
            return data
        left, top, width, height = map(int, box.split(","))
        part = decode_image(data).crop((left, top, left + width, top + height))
        file = io.BytesIO()
        part.save(file, "PNG", compress_level=1)
        return file.getvalue()


def _name_and_box(key: str) -> tuple[str, str]:
    part = PART.fullmatch(key)
    return (part[1], part[2]) if part else (key, "")
