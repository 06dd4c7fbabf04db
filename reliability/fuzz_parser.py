"""What a parser of foreign files is to `fuzz_readers.py`, and what several of them share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damage import Seed
from PIL import Image

from vilta.data.sources import find_reader

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Parser:
    """Files that one decoder reads: valid ones by name, and what reads one that was damaged.

    A file lies alone in its folder, apart from what ``prepare`` writes there. ``errors`` are what
    its reader may raise; each must have one line.
    """

    name: str
    files: Mapping[str, tuple[Read, list[Seed]]]
    prepare: Callable[[Path], object] = lambda folder: None
    errors: tuple[type[Exception], ...] = (ValueError,)


def encoded(kind: str, mode: str = "RGB", **settings: Any) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 20)).convert(mode).save(file, kind, **settings)
    return file.getvalue()


JPEG = encoded("JPEG")


def read_pairs(path: Path) -> None:
    """Read a source to its end."""
    for _ in find_reader(str(path)).found():
        pass


def read_folder(path: Path) -> None:
    """Read the folder of a file that names pictures."""
    read_pairs(path.parent)


def write_picture(folder: Path) -> None:
    """Write the picture that tables and lists name."""
    (folder / "1.jpg").write_bytes(JPEG)


def plain(content: Any) -> bytes:
    """Return JSON."""
    return json.dumps(content).encode()


KARPATHY_SENTENCE = {"tokens": ["a", "dog"], "raw": "A dog", "imgid": 0, "sentid": 0}
KARPATHY = {
    "images": [
        {
            "sentids": [0],
            "imgid": 0,
            "sentences": [KARPATHY_SENTENCE],
            "split": "train",
            "filename": "1.jpg",
        }
    ],
    "dataset": "flickr8k",
}
