"""Images by name: where the items of a task find what they ask about."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import datasets
from PIL import Image

from vilta.data.samples import image_bytes
from vilta.data.sources import load_pairs
from vilta.data.sources.base import AGAIN, as_list, manifest_of
from vilta.data.sources.files import ImageFiles, path_ends
from vilta.decoding import bounded_bytes
from vilta.scenes import picture_from_id
from vilta.screen import counted

SCENES = re.compile(r"scenes(?::(\d+))?")
"""Prefix that names the built-in pictures, followed by their side in pixels."""
NAMED = 10
"""How many missing images an error names."""


@runtime_checkable
class Images(Protocol):
    """A place with images. ``name`` is what error messages call it."""

    name: str

    def __contains__(self, key: str) -> bool: ...

    def read(self, key: str) -> bytes:
        """Return the bytes of an image; ``ValueError`` in one line if they cannot be read."""
        ...


class ImageFolder:
    """Image files anywhere below a folder; ``ImageFiles`` defines their keys."""

    def __init__(self, root: Path) -> None:
        self.name, self.files = str(root), ImageFiles(root)

    def __contains__(self, key: str) -> bool:
        return self.files.find(key) is not None

    def read(self, key: str) -> bytes:
        """Return the bytes of an image file."""
        path = self.files.find(key)
        try:
            if path is None:
                raise ValueError(f"no image {key!r} below {self.name}")
            return bounded_bytes(path)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None


class PairImages:
    """The images of a source of pairs, such as a packed folder.

    A key is an image id, an end of it (``flickr8k/1.jpg``: ``1.jpg``), or its last part without
    suffix; one that is an end of several ids is refused. ``aliases`` are the ids of images that
    were merged with others, with the row that now represents them.
    """

    def __init__(
        self, table: datasets.Dataset, name: str, aliases: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.name = name
        self.table = table.cast_column("image", datasets.Image(decode=False))
        self.rows: dict[str, int] = {}
        self.ambiguous: dict[str, str] = {}
        """A key that fits several images: what two of them are called."""
        named = [(image_id, row) for row, image_id in enumerate(table["image_id"])]
        named += [(image_id, row) for image_id, row in aliases if 0 <= row < len(table)]
        ids: dict[int, str] = {}
        for image_id, row in named:
            ids.setdefault(row, image_id)
            for key in {image_id, image_id.rpartition(AGAIN)[0] or image_id}:
                self._enter(key, row, ids)
        whole = self.rows.copy()
        for image_id, row in named:
            path = PurePosixPath(image_id)
            for key in {*list(path_ends(image_id))[1:], path.stem}.difference(whole):
                self._enter(key, row, ids)

    def _enter(self, key: str, row: int, ids: dict[int, str]) -> None:
        known = self.rows.setdefault(key, row)
        if known != row:
            self.ambiguous[key] = f"{ids[known]} and {ids[row]}"

    def __contains__(self, key: str) -> bool:
        if key in self.ambiguous:
            raise ValueError(
                f"{key!r} is {self.ambiguous[key]} in {self.name}; name its folder too"
            )
        return key in self.rows

    def read(self, key: str) -> bytes:
        """Return the bytes of an image as they were packed."""
        if key not in self:
            raise ValueError(f"no image {key!r} in {self.name}")
        return image_bytes(self.table[self.rows[key]]["image"])


class SceneImages:
    """The built-in pictures, drawn when they are wanted, ``size`` pixels a side."""

    def __init__(self, size: int) -> None:
        self.name, self.size = "scenes", size

    def __contains__(self, key: str) -> bool:
        return key.startswith("scene-")

    def read(self, key: str) -> bytes:
        """Return a picture as PNG."""
        file = io.BytesIO()
        Image.fromarray(picture_from_id(key, self.size)).save(file, "PNG", compress_level=1)
        return file.getvalue()


def find_images(path: str) -> Images:
    """Return the images of a folder, of any source of pairs, or of ``scenes:SIZE``.

    Raises ``ValueError`` in one line if there are none.
    """
    if (scenes := SCENES.fullmatch(path)) is not None:
        return SceneImages(int(scenes[1] or 96))
    place = Path(path)
    packed = (place / "state.json").is_file()
    if place.is_dir() and not packed and (folder := ImageFolder(place)).files.ends:
        return folder
    return PairImages(load_pairs(path), path, merged_ids(place))


def merged_ids(folder: Path) -> list[tuple[str, int]]:
    """Return the ids that were merged with another when a folder was packed, with its row."""
    merged = as_list(manifest_of(folder).get("merged_items"))
    found = [each for each in merged if isinstance(each, dict)]
    return [
        (str(each["image_id"]), each["row"])
        for each in found
        if "image_id" in each and type(each.get("row")) is int
    ]


def require_images(images: Images, keys: Iterable[str]) -> None:
    """Raise ``ValueError`` that counts the missing images and names the first ten."""
    wanted = dict.fromkeys(keys)
    missing = [key for key in wanted if key not in images]
    if missing:
        named = ", ".join(missing[:NAMED])
        raise ValueError(
            f"{len(missing)} of {counted(len(wanted), 'image is', 'images are')} not in "
            f"{images.name} (--data.images, of vilta evaluate: --images, of vilta ablate: "
            "--edits-images, names the place; it may be a folder above several), the first: "
            f"{named}"
        )
