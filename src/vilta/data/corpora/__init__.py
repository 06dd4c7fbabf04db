"""Readers of image-text pairs as people have them on disk; the content says which one fits."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import datasets

from vilta.data.corpora.base import FEATURES, Reader, Row, Skipped, chunks, nothing_usable
from vilta.data.corpora.image_folder import METADATA, find_image_folder
from vilta.data.corpora.karpathy import KarpathyReader, KarpathyTarReader
from vilta.data.corpora.saved import find_saved, find_scenes

__all__ = [
    "FEATURES",
    "Reader",
    "Row",
    "Skipped",
    "chunks",
    "find_reader",
    "load_pairs",
    "nothing_usable",
]

LOOKED_FOR = (
    "a folder packed by `vilta pack` or saved by `datasets`, a Karpathy split file "
    "(dataset_*.json) in a folder or tar, an image folder with metadata.csv or metadata.jsonl, "
    "or with a .txt beside each image"
)


def load_pairs(path: str, split: str = "", caption_column: str = "") -> datasets.Dataset:
    """Return the pair table of a source: image, captions, image_id, source.

    Packed folders are mapped into memory. Any other source is read into memory as it is (image
    bytes, not pixels), which suits small ones; large ones must be packed by `vilta pack` first.

    Raises ``ValueError`` with one line that says what is wrong.
    """
    return find_reader(path, split, caption_column).table()


def find_reader(path: str, split: str = "", caption_column: str = "") -> Reader:
    """Return the reader that fits what is at ``path`` (or ``scenes:COUNT``, the built-in data).

    ``split`` names one of the source's splits, or a subfolder. Raises ``ValueError`` with one line
    if there is nothing, or nothing known.
    """
    if not path:
        raise ValueError("no data were named; give a folder, a file, or scenes:COUNT")
    if (scenes := find_scenes(path, split)) is not None:
        return scenes
    place = Path(path)
    if place.is_file():
        return _file_reader(place, split)
    if not place.is_dir():
        raise ValueError(f"no such file or folder: {path}")
    if not any(place.iterdir()):
        raise ValueError(f"{path} is an empty folder")
    reader = _folder_reader(place, split, caption_column)
    if reader is not None:
        return reader
    inner = [f.name for f in _folders(place) if _is_source(f)]
    if split and split in inner:
        return find_reader(str(place / split), "", caption_column)
    if inner:
        problem = f"no split {split!r}" if split else "a split must be named"
        raise ValueError(f"{path}: {problem}; there are: {', '.join(inner)}")
    raise ValueError(f"{path} holds nothing known; looked for {LOOKED_FOR}")


def _file_reader(path: Path, split: str) -> Reader:
    if path.suffix == ".json":
        return KarpathyReader(path, split)
    try:
        if tarfile.is_tarfile(path):
            return KarpathyTarReader(path, split)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    raise ValueError(f"{path} is nothing known; looked for {LOOKED_FOR}")


def _folder_reader(folder: Path, split: str, caption_column: str) -> Reader | None:
    """Return the reader of a folder that is a source itself, or None."""
    saved = find_saved(folder, split, caption_column)
    if saved is not None:
        return saved
    split_files = _split_files(folder) or [f for g in _folders(folder) for f in _split_files(g)]
    if len(split_files) > 1:
        names = ", ".join(f.name for f in split_files)
        raise ValueError(f"{folder} holds several split files; name one of them: {names}")
    if split_files:
        return KarpathyReader(split_files[0], split)
    if split and (folder / split).is_dir() and not _has_metadata(folder):
        return None  # the split is a subfolder
    return find_image_folder(folder, split, caption_column)


def _split_files(folder: Path) -> list[Path]:
    """Return what is named like a Karpathy split file and is none of the files of `datasets`."""
    own = ("dataset_info.json", "dataset_dict.json")
    return sorted(f for f in folder.glob("dataset_*.json") if f.name not in own)


def _is_source(folder: Path) -> bool:
    """Tell, without reading much, whether a subfolder looks like a split."""
    return _has_metadata(folder) or (folder / "state.json").is_file() or any(folder.glob("*.txt"))


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in METADATA)


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
