"""COCO's caption files: `annotations/captions_*.json`, images in folders beside `annotations`.

The layout, from https://cocodataset.org/#format-data: ``images`` with ``id`` and ``file_name``,
``annotations`` with ``image_id`` and ``caption``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vilta.data.sources.base import Skipped, chosen_split
from vilta.data.sources.files import NamedImagesReader, files_named, read_json
from vilta.data.sources.options import SourceOptions

PREFIX = "captions_"
"""What the files' names begin with; the rest is the split, e.g. train2014."""
NAMELESS = "it lacks an id or a file name"


class CocoReader(NamedImagesReader):
    """A caption file, and images anywhere below its folder or beside its `annotations` folder."""

    what = "COCO caption file"

    def __init__(self, path: Path, content: Any, options: SourceOptions) -> None:
        if not is_coco(content):
            raise ValueError(f"{path} is not a COCO caption file: it lacks images and annotations")
        unusable: list[Skipped] = []
        names: dict[str, str] = {}
        for place, image in enumerate(content["images"]):
            number = _identity(image, "id")
            if number and isinstance(image.get("file_name"), str) and image["file_name"]:
                names[number] = image["file_name"]
            else:
                unusable.append(Skipped(source=f"{path}: image {place}", reason=NAMELESS))
        captions: dict[str, list[Any]] = {name: [] for name in names.values()}
        for place, annotation in enumerate(content["annotations"]):
            number = _identity(annotation, "image_id")
            if number in names:
                captions[names[number]].append(annotation.get("caption"))
            else:
                reason = f"there is no image with the id {number or 'that it lacks'}"
                unusable.append(Skipped(source=f"{path}: annotation {place}", reason=reason))
        inside = path.parent.name == "annotations"
        beside = path.parent.parent if inside else path.parent
        root = Path(options.images) if options.images else beside
        super().__init__(str(path), root, captions, "coco", unusable)


def is_coco(content: Any) -> bool:
    """Tell whether parsed JSON has the layout of a COCO file."""
    return isinstance(content, dict) and all(
        isinstance(content.get(part), list) for part in ("images", "annotations")
    )


def find_coco(folder: Path, options: SourceOptions) -> CocoReader | None:
    """Return the reader of a folder with COCO's caption files, or None."""
    places = (folder, folder / "annotations")
    files = {
        f.stem.removeprefix(PREFIX): f for p in places for f in files_named(p, f"{PREFIX}*.json")
    }
    if not files:
        return None
    path = files[chosen_split(files, options.split, str(folder))]
    return CocoReader(path, read_json(path), options)


def _identity(entry: Any, field: str) -> str:
    """Return an id as text: some tools write numbers, others strings of them; empty if none."""
    value = entry.get(field) if isinstance(entry, dict) else None
    return str(value) if isinstance(value, int | str) else ""
