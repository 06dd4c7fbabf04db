"""Images by name: where the items of a task find what they ask about."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import datasets
from PIL import Image

from vilta.data.corpora import load_pairs
from vilta.data.corpora.files import ImageFiles
from vilta.data.samples import image_bytes
from vilta.data.scenes import picture_from_id

SCENES = re.compile(r"scenes(?::(\d+))?")
"""What stands for the built-in pictures, with their side in pixels."""
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
    """Image files anywhere below a folder; ``ImageFiles`` says which keys they have."""

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
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from None


class PairImages:
    """The images of a source of pairs, such as a packed folder.

    A key is an image id, its last part (``flickr8k/1.jpg``: ``1.jpg``), or that without its suffix.
    """

    def __init__(self, table: datasets.Dataset, name: str) -> None:
        self.name = name
        self.table = table.cast_column("image", datasets.Image(decode=False))
        self.rows: dict[str, int] = {}
        for row, image_id in enumerate(table["image_id"]):
            path = PurePosixPath(image_id)
            for key in (image_id, path.name, path.stem):
                self.rows.setdefault(key, row)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def read(self, key: str) -> bytes:
        """Return the bytes of an image as they were packed."""
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
    return PairImages(load_pairs(path), path)


def require_images(images: Images, keys: Iterable[str]) -> None:
    """Raise ``ValueError`` that counts the missing images and names the first ten."""
    wanted = dict.fromkeys(keys)
    missing = [key for key in wanted if key not in images]
    if missing:
        named = ", ".join(missing[:NAMED])
        raise ValueError(
            f"{len(missing)} of {len(wanted)} images are not in {images.name} "
            f"(--data.images names the place), the first: {named}"
        )
