"""The published sets of fine-grained matching, field for field.

SugarCrepe (arXiv 2306.14610), SugarCrepe++ (arXiv 2406.11171), ARO (arXiv 2210.01936), Winoground
(arXiv 2204.03162), VALSE (arXiv 2112.07566); and a CSV of one's own.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vilta.data.corpora.files import read_json
from vilta.data.images import Images
from vilta.data.transforms import decode_image
from vilta.tasks.csv_lines import csv_lines
from vilta.tasks.finetuning import Row
from vilta.tasks.json_lines import field, json_lines, list_field

AGREED = 2
"""Annotators of three who must have chosen VALSE's caption (its authors' rule)."""


def read_set(path: str) -> list[Row]:
    """Read a file, or every JSON file of a folder; the content says which set it is."""
    place = Path(path)
    files = sorted(place.glob("*.json*")) if place.is_dir() else [place]
    if not files:
        raise ValueError(f"{path} holds no JSON files")
    return [row for file in files for row in _read_file(file)]


def _read_file(path: Path) -> list[Row]:
    if path.suffix == ".csv":
        return _csv_rows(path)
    content: Any = json_lines(path) if path.suffix == ".jsonl" else read_json(path)
    listed = enumerate(content) if isinstance(content, list) else ()
    items = list(content.items() if isinstance(content, dict) else listed)
    if not items or not all(isinstance(item, dict) for _, item in items):
        raise ValueError(f"{path} holds no items, or one that is not a JSON object")
    first = items[0][1]
    for mark, read in READERS.items():
        if mark in first:
            rows = [read(item, f"{path.stem}-{name}", path) for name, item in items]
            return [row for row in rows if row is not None]
    raise ValueError(
        f"{path} is no set of captions that is known; its items have {', '.join(first)}"
    )


def _winoground(item: dict[str, Any], name: str, path: Path) -> Row:
    images = [str(field(item, f"image_{i}", path)) for i in (0, 1)]
    texts = [str(field(item, f"caption_{i}", path)) for i in (0, 1)]
    category = str(item.get("collapsed_tag") or item.get("tag") or "all")
    return row_of(name, images, texts, [1, 0], "winoground", category)


def _valse(item: dict[str, Any], name: str, path: Path) -> Row | None:
    votes = item.get("mturk") or {}
    if votes and int(votes.get("caption", 0)) < AGREED:
        return None
    caption = field(item, "caption", path)
    caption = caption[0] if isinstance(caption, list) else caption
    image = str(field(item, "image_file", path))
    return row_of(name, [image], [caption, field(item, "foil", path)], [1, 0], "valse", path.stem)


def _aro(item: dict[str, Any], name: str, path: Path) -> Row:
    box = [int(field(item, f"bbox_{side}", path)) for side in "xywh"] if "bbox_x" in item else []
    image = str(field(item, "image_path", path))
    key = f"{image}#{','.join(map(str, box))}" if box else image
    category = item.get("relation_name") or "_".join(item.get("attributes") or ["all"])
    texts = [str(field(item, f"{kind}_caption", path)) for kind in ("true", "false")]
    return row_of(name, [key], texts, [1, 0], "aro", category)


def _aro_order(item: dict[str, Any], name: str, path: Path) -> Row:
    texts = [str(text) for text in list_field(item, "caption_options", path)]
    truth = [1] + [0] * (len(texts) - 1)
    return row_of(name, [str(field(item, "image", path))], texts, truth, "aro-order", "order")


def _sugarcrepe(item: dict[str, Any], name: str, path: Path) -> Row:
    texts = [str(field(item, text, path)) for text in ("caption", "negative_caption")]
    truth, source = [1, 0], "sugarcrepe"
    if "caption2" in item:
        texts, truth, source = [*texts, str(item["caption2"])], [1, 0, 1], "sugarcrepe++"
    return row_of(name, [str(field(item, "filename", path))], texts, truth, source, path.stem)


READERS: dict[str, Callable[[dict[str, Any], str, Path], Row | None]] = {
    "caption_0": _winoground,
    "foil": _valse,
    "true_caption": _aro,
    "caption_options": _aro_order,
    "negative_caption": _sugarcrepe,
}
"""A field that only this set has, and what makes a row of its items."""


def _csv_rows(path: Path) -> list[Row]:
    """Columns image, caption, edit; and paraphrase and category where there are such."""
    rows = []
    for number, line in enumerate(csv_lines(path, ("image", "caption", "edit"))):
        texts, truth = [line["caption"], line["edit"]], [1, 0]
        if line.get("paraphrase"):
            texts, truth = [*texts, line["paraphrase"]], [1, 0, 1]
        category = line.get("category") or "all"
        rows.append(row_of(str(number), [line["image"]], texts, truth, path.stem, category))
    return rows


def row_of(
    name: str, images: list[str], texts: list[str], truth: list[int], source: str, category: str
) -> Row:
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
        return key.partition("#")[0] in self.images

    def read(self, key: str) -> bytes:
        """Return the bytes of an image, or its part as PNG."""
        name, _, box = key.partition("#")
        data = self.images.read(name)
        if not box:
            return data
        left, top, width, height = map(int, box.split(","))
        part = decode_image(data).crop((left, top, left + width, top + height))
        file = io.BytesIO()
        part.save(file, "PNG", compress_level=1)
        return file.getvalue()
