"""COCO's caption files: `annotations/captions_*.json`, images in folders beside `annotations`.

The layout, from https://cocodataset.org/#format-data: ``images`` with ``id`` and ``file_name``,
``annotations`` with ``image_id`` and ``caption``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilta.data.corpora.base import chosen_split
from vilta.data.corpora.files import NamedImagesReader, is_plain_name, read_json

PREFIX = "captions_"
"""What the files' names begin with; the rest is the split, e.g. train2014."""


class CocoReader(NamedImagesReader):
    """A caption file, and images anywhere below its folder or beside its `annotations` folder."""

    what = "COCO caption file"

    def __init__(self, path: Path, content: Any) -> None:
        if not is_coco(content):
            raise ValueError(f"{path} is no COCO caption file: images and annotations are missing")
        names = dict(_names(content["images"]))
        captions: dict[str, list[Any]] = {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            if isinstance(annotation, dict) and annotation.get("image_id") in names:
                captions[names[annotation["image_id"]]].append(annotation.get("caption"))
        inside = path.parent.name == "annotations"
        super().__init__(str(path), path.parent.parent if inside else path.parent, captions, "coco")


def is_coco(content: Any) -> bool:
    """Tell whether parsed JSON has the layout of a COCO file."""
    return isinstance(content, dict) and all(
        isinstance(content.get(part), list) for part in ("images", "annotations")
    )


def find_coco(folder: Path, split: str) -> CocoReader | None:
    """Return the reader of a folder with COCO's caption files, or None."""
    places = (folder, folder / "annotations")
    files = {
        f.stem.removeprefix(PREFIX): f for p in places for f in sorted(p.glob(f"{PREFIX}*.json"))
    }
    if not files:
        return None
    path = files[chosen_split(files, split, str(folder))]
    return CocoReader(path, read_json(path))


def _names(images: list[Any]) -> Iterator[tuple[Any, str]]:
    for image in images:
        if isinstance(image, dict) and isinstance(image.get("id"), int | str):
            name = image.get("file_name")
            if is_plain_name(name):
                yield image["id"], str(name)
