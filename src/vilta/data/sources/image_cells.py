"""What a cell of a table holds as image: bytes, base64, a path, or a list of one of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from vilta.data.sources.base import Place
from vilta.data.sources.files import ImageFiles
from vilta.decoding import bounded_bytes

FileBytes = Callable[[str], bytes]
"""Returns the content of an image file by its path; ``OSError`` if there is none."""
_BASE64 = re.compile(r"(?:data:image/[\w.+-]+;base64,)?[A-Za-z0-9+/\s]{32,}={0,2}\s*")


def image_bytes(cell: Any, file_bytes: FileBytes) -> bytes:
    """Return the image of a cell; ``OSError`` if it holds none."""
    if isinstance(cell, list):
        if len(cell) != 1:
            raise OSError(f"the cell holds {len(cell)} images, where one is expected")
        return image_bytes(cell[0], file_bytes)
    if isinstance(cell, dict):
        return image_bytes(cell.get("bytes") or cell.get("path"), file_bytes)
    if isinstance(cell, bytes):
        if not _BASE64.fullmatch(cell[:64].decode("latin-1")):
            return cell
        cell = cell.decode("latin-1")
    if not isinstance(cell, str):
        raise OSError(f"the image is a {type(cell).__name__}, not bytes")
    if path := path_in(cell):
        return file_bytes(path)
    try:
        return base64.b64decode(cell.partition(";base64,")[2] or cell)
    except ValueError as error:
        raise OSError(str(error)) from None


def path_in(cell: Any) -> str:
    """Return the path that a cell gives for an image; empty if the cell holds the image."""
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, dict) and cell.get("bytes") is None:
        cell = cell.get("path")
    is_path = isinstance(cell, str) and not _BASE64.fullmatch(cell)
    return PurePosixPath(cell.replace("\\", "/")).as_posix() if is_path else ""


def files_below(root: Place) -> FileBytes:
    """Return what reads the image files below a folder, here or in an object store."""
    if not isinstance(root, Path):
        return lambda path: _remote_bytes(root, path)
    files = ImageFiles(root)

    def read(path: str) -> bytes:
        try:
            found = files.find(path)
        except ValueError as error:  # several
            raise OSError(str(error)) from None
        if found is None:
            raise OSError(f"no image {path!r} below {root}")
        return bounded_bytes(found)

    return read


def _remote_bytes(root: Any, path: str) -> bytes:
    if path.startswith("/") or ".." in path.split("/"):
        raise OSError(f"not a path below {root}: {path}")
    content: bytes = (root / path).read_bytes()
    return content
