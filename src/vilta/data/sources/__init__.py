"""Readers of image-text pairs as people have them on disk; the content says which one fits."""

from __future__ import annotations

import glob
import os
import tarfile
from pathlib import Path

import datasets

from vilta.data.sources.base import (
    FEATURES,
    Reader,
    Row,
    Skipped,
    chunks,
    no_such_split,
    nothing_usable,
)
from vilta.data.sources.coco import CocoReader, find_coco, is_coco
from vilta.data.sources.columnar import SUFFIXES as COLUMNAR
from vilta.data.sources.columnar import columnar_reader, find_columnar
from vilta.data.sources.downloads import refuse_url_list
from vilta.data.sources.files import read_json
from vilta.data.sources.flickr30k import TokenFileReader, find_token_file, is_token_file
from vilta.data.sources.image_folder import METADATA, find_image_folder
from vilta.data.sources.karpathy import (
    KarpathyReader,
    KarpathyTarReader,
    find_karpathy,
    has_samples,
)
from vilta.data.sources.patterns import HUB, find_shards
from vilta.data.sources.saved import ScenesName, find_hub, find_saved, find_scenes, scenes_named
from vilta.data.sources.visual_genome import REGIONS, VisualGenomeReader, find_visual_genome
from vilta.data.sources.webdataset import WebDatasetReader

__all__ = [
    "FEATURES",
    "Reader",
    "Row",
    "ScenesName",
    "Skipped",
    "chunks",
    "find_reader",
    "find_shards",
    "load_pairs",
    "nothing_usable",
    "scenes_named",
]

LOOKED_FOR = (
    "a folder packed by `vilta pack` or saved by `datasets`; Karpathy's split files "
    "(dataset_*.json, in a folder or tar); COCO's captions_*.json; a .token file; Visual Genome's "
    "region_descriptions.json; WebDataset tars and what img2dataset leaves; Parquet; METER's Arrow "
    "files; images with metadata.csv or metadata.jsonl, or with a .txt beside each"
)


def load_pairs(
    path: str, split: str = "", caption_column: str = "", strict: bool = False
) -> datasets.Dataset:
    """Return the pair table of a source: image, captions, image_id, source.

    Packed folders are mapped into memory. Any other source is read into memory as it is (image
    bytes, not pixels), which suits small ones; large ones must be packed by `vilta pack` first.
    Items that cannot be used are left out, and a warning counts them; with ``strict`` the first of
    them is an error.

    Raises ``ValueError`` with one line that says what is wrong.
    """
    reader = find_reader(path, split, caption_column)
    reader.strict = strict
    return reader.table()


def find_reader(
    path: str, split: str = "", caption_column: str = "", region_crops: bool = False
) -> Reader:
    """Return the reader that fits what is at ``path``.

    ``path`` is a file, a folder, a pattern such as ``cc3m/*.tar``, ``hub:owner/name``, or
    ``scenes:COUNT``, the built-in data. ``split`` names one of the source's splits, or a subfolder;
    ``path?split=NAME`` says the same.
    With ``region_crops`` the regions of Visual Genome are images of their own.

    Raises ``ValueError`` with one line if there is nothing, or nothing known.
    """
    path, _, named = path.partition("?split=")
    split = split or named
    if not path:
        raise ValueError("no data were named; give a folder, a file, or scenes:COUNT")
    if (scenes := find_scenes(path, split)) is not None:
        return scenes
    if path.startswith(HUB):
        return find_hub(path.removeprefix(HUB), split, caption_column)
    try:
        return _find(Path(path), split, caption_column, region_crops)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _find(place: Path, split: str, column: str, crops: bool) -> Reader:
    if place.is_file():
        return _files_reader([place], str(place), split, column, crops)
    if glob.has_magic(str(place)):
        found = [Path(f) for f in sorted(glob.glob(str(place))) if os.path.isfile(f)]
        if found:
            return _files_reader(found, str(place), split, column, crops)
    if not place.is_dir():
        raise ValueError(f"no such file or folder: {place}")
    if not any(place.iterdir()):
        raise ValueError(f"{place} is an empty folder")
    reader = _folder_reader(place, split, column, crops)
    if reader is not None:
        return reader
    inner = [f.name for f in _folders(place) if _is_source(f)]
    if split and split in inner:
        return _find(place / split, "", column, crops)
    if inner:
        raise no_such_split(inner, split, str(place))
    raise ValueError(f"{place} holds nothing known; looked for {LOOKED_FOR}")


def _files_reader(files: list[Path], name: str, split: str, column: str, crops: bool) -> Reader:
    """Return the reader of files, all of one kind."""
    first = files[0]
    if other := next((f for f in files if f.suffix != first.suffix), None):
        raise ValueError(
            f"{name} holds files of several kinds, such as {first.name} and {other.name}"
        )
    if first.suffix in COLUMNAR:
        return columnar_reader(files, name, column)
    if len(files) == 1:
        if first.name == REGIONS:
            return VisualGenomeReader(first.parent, crops)
        if is_token_file(first):
            return TokenFileReader(first)
        if first.suffix == ".tsv":
            refuse_url_list(first)
        if first.suffix == ".json":
            return _json_reader(first, split)
    if all(tarfile.is_tarfile(file) for file in files):
        if len(files) > 1 or has_samples(first):
            return WebDatasetReader(files, name, column)
        return KarpathyTarReader(first, split)
    raise ValueError(f"{name} is nothing known; looked for {LOOKED_FOR}")


def _json_reader(path: Path, split: str) -> Reader:
    content = read_json(path)
    if isinstance(content, dict) and "image_urls" in content:
        refuse_url_list(path)
    if is_coco(content):
        return CocoReader(path, content)
    return KarpathyReader(path, content, split)


def _folder_reader(folder: Path, split: str, column: str, crops: bool) -> Reader | None:
    """Return the reader of a folder that is a source itself, or None."""
    found = (
        find_saved(folder, split, column)
        or find_karpathy(folder, split)
        or find_coco(folder, split)
        or find_visual_genome(folder, crops)
        or find_token_file(folder)
    )
    if found is not None:
        return found
    if split and (folder / split).is_dir() and not _has_metadata(folder):
        return None  # the split is a subfolder
    if not _has_metadata(folder) and (tars := sorted(folder.glob("*.tar"))):
        return _files_reader(tars, str(folder), split, column, crops)
    return find_image_folder(folder, split, column) or find_columnar(folder, split, column)


def _is_source(folder: Path) -> bool:
    """Tell, without reading much, whether a subfolder looks like a split."""
    known = (folder / "state.json").is_file() or _has_metadata(folder)
    return known or any(f.suffix in (".txt", ".tar", *COLUMNAR) for f in folder.iterdir())


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in METADATA)


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
