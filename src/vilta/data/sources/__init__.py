"""Readers of image-text pairs as they are found on disk; the content decides which one fits."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import datasets

from vilta.data.sources.base import (
    FEATURES,
    TEXT_SUFFIXES,
    PairRow,
    Reader,
    Skipped,
    chunks,
    listed,
    no_such_split,
    nothing_usable,
)
from vilta.data.sources.coco import CocoReader, find_coco, is_coco
from vilta.data.sources.columnar import SUFFIXES as COLUMNAR
from vilta.data.sources.columnar import columnar_reader, files_of_split, find_columnar
from vilta.data.sources.custom import find_custom
from vilta.data.sources.downloads import refuse_url_list
from vilta.data.sources.files import files_named, image_paths, is_tar, read_json
from vilta.data.sources.flickr30k import TokenFileReader, find_token_file, is_token_file
from vilta.data.sources.image_folder import find_image_folder
from vilta.data.sources.karpathy import (
    KarpathyReader,
    KarpathyTarReader,
    find_karpathy,
    is_karpathy,
)
from vilta.data.sources.options import SourceOptions, joined_sources, named_options
from vilta.data.sources.patterns import HUB, find_shards
from vilta.data.sources.saved import ScenesName, find_hub, find_saved, find_scenes, scenes_named
from vilta.data.sources.table_file import METADATA, TableFileReader, find_table, is_table
from vilta.data.sources.table_file import SUFFIXES as TABLES
from vilta.data.sources.tables import SEPARATED, columns_of, holds_rows, is_json_list
from vilta.data.sources.visual_genome import REGIONS, VisualGenomeReader, find_visual_genome
from vilta.data.sources.webdataset import WebDatasetReader, has_samples
from vilta.screen import counted

__all__ = [
    "FEATURES",
    "PairRow",
    "Reader",
    "ScenesName",
    "Skipped",
    "SourceOptions",
    "chunks",
    "find_reader",
    "find_shards",
    "joined_sources",
    "load_pairs",
    "named_options",
    "nothing_usable",
    "scenes_named",
]

METADATA_PARQUET = "metadata.parquet"
MOST_COUNTED = 100_000
"""Images that are counted for an error message."""
LOOKED_FOR = (
    "a folder packed by `vilta pack` or saved by `datasets`; Karpathy's split files "
    "(dataset_*.json, in a folder or tar); COCO's captions_*.json; a .token file; Visual Genome's "
    "region_descriptions.json; WebDataset tars and what img2dataset leaves; Parquet; METER's Arrow "
    "files; a CSV, TSV, JSON or JSON lines file whose columns name images and captions; images "
    "with a .txt beside each"
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
    reader = find_reader(path, SourceOptions(split=split, caption_column=caption_column))
    reader.strict = strict
    return reader.table()


def find_reader(path: str, options: SourceOptions | None = None) -> Reader:
    """Return the reader that fits what is at ``path``.

    ``path`` is a file, a folder, a pattern such as ``cc3m/*.tar``, ``hub:owner/name``, or
    ``scenes:COUNT``, the built-in data; ``module:Class:PATH`` names a reader of the user's own.
    Options may be part of it: ``path?split=NAME``. A split is one of the source's, or a subfolder.

    Raises ``ValueError`` with one line if there is nothing, or nothing known.
    """
    path, options = named_options(path, options or SourceOptions())
    if not path:
        raise ValueError(
            "no data were named; --data.train, or --data of the commands that use a run, takes a "
            "folder, a file, or scenes:COUNT"
        )
    if (scenes := find_scenes(path, options.split)) is not None:
        return scenes
    if path.startswith(HUB):
        return find_hub(path.removeprefix(HUB), options)
    try:
        return find_custom(path, options) or _find(Path(path), options)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None


def _find(place: Path, options: SourceOptions) -> Reader:
    if place.is_file():
        return _files_reader([place], str(place), options)
    if glob.has_magic(str(place)):
        found = [Path(f) for f in sorted(glob.glob(str(place))) if os.path.isfile(f)]
        if found:
            return _files_reader(found, str(place), options)
    if not place.is_dir():
        raise ValueError(f"no such file or folder: {place}")
    if not any(place.iterdir()):
        raise ValueError(f"{place} is an empty folder")
    reader = _folder_reader(place, options)
    if reader is not None:
        return reader
    inner = [f.name for f in _folders(place) if _is_source(f)]
    if options.split and options.split in inner:
        return _find(place / options.split, replace(options, split=""))
    if inner:
        raise no_such_split(inner, options.split, str(place))
    raise ValueError(nothing_known(place))


def nothing_known(place: Path) -> str:
    """Return the error message for an unsupported folder: what it has and what it lacks."""
    images = sum(1 for _ in islice(image_paths(place), MOST_COUNTED))
    found = (f for f in sorted(place.iterdir()) if f.suffix.lower() in TABLES and f.is_file())
    tables = [_with_columns(file) for file in found]
    if images and tables:
        return (
            f"{place} holds {counted(images, 'image')} but no captions; if they are in "
            f"{' or '.join(tables[:3])}, name the columns with --image-column and --caption-column"
        )
    if images:
        return (
            f"{place} holds {counted(images, 'image')} but no captions; put a text file beside "
            "each (1.jpg, 1.txt) or a captions.csv with the columns file_name and caption in the "
            "folder"
        )
    return f"{place} contains no supported source; supported are {LOOKED_FOR}"


def _with_columns(table: Path) -> str:
    """Return a table's name, with its columns if the first line names them."""
    if table.suffix.lower() not in SEPARATED:
        return table.name
    return f"{table.name} ({listed(columns_of(table, lambda _: False))})"


def _files_reader(files: list[Path], name: str, options: SourceOptions) -> Reader:
    """Return the reader of files, all of one kind."""
    first = files[0]
    if other := next((f for f in files if f.suffix != first.suffix), None):
        raise ValueError(
            f"{name} matches files of several kinds, such as {first.name} and {other.name}"
        )
    if first.suffix in COLUMNAR:
        return columnar_reader(files, name, options)
    if len(files) == 1:
        if first.name == REGIONS:
            return VisualGenomeReader(first.parent, options.region_crops)
        if is_token_file(first):
            return TokenFileReader(first, options)
        if first.suffix == ".json":
            return _json_reader(first, options)
    if all(map(is_tar, files)):
        if len(files) > 1 or has_samples(first):
            chosen = files_of_split(files, options.split, name)
            return WebDatasetReader(chosen or files, name, options)
        return KarpathyTarReader(first, options.split)
    if len(files) == 1 and first.suffix.lower() in TABLES:
        if first.suffix == ".tsv" and not is_table(first, options):
            refuse_url_list(first)
        return TableFileReader(first, options)
    raise ValueError(f"{name} is not a supported source; supported are {LOOKED_FOR}")


def _json_reader(path: Path, options: SourceOptions) -> Reader:
    if is_json_list(path):
        return TableFileReader(path, options)
    content = read_json(path)
    if isinstance(content, dict) and "image_urls" in content:
        refuse_url_list(path)
    if is_coco(content):
        return CocoReader(path, content, options)
    if is_karpathy(content) or not holds_rows(content):
        return KarpathyReader(path, content, options)
    return TableFileReader(path, options, content)


def _folder_reader(folder: Path, options: SourceOptions) -> Reader | None:
    """Return the reader of a folder that is a source itself, or None."""
    split = options.split
    found = (
        find_saved(folder, options)
        or find_karpathy(folder, options)
        or find_coco(folder, options)
        or find_visual_genome(folder, options.region_crops)
        or find_token_file(folder, options)
    )
    if found is not None:
        return found
    if split and (folder / split).is_dir() and not _has_metadata(folder):
        return None  # the split is a subfolder
    if (folder / METADATA_PARQUET).is_file():
        reader = columnar_reader([folder / METADATA_PARQUET], str(folder), options)
        reader.alone = not options.split and not options.images
        return reader
    if not _has_metadata(folder) and (tars := _tars(folder)):
        return _files_reader(tars, str(folder), options)
    return (
        find_table(folder, options)
        or find_image_folder(folder, options)
        or find_columnar(folder, options)
    )


def _is_source(folder: Path) -> bool:
    """Tell, without reading much, whether a subfolder looks like a split."""
    known = (folder / "state.json").is_file() or _has_metadata(folder)
    ends = (*TEXT_SUFFIXES, ".tar", ".tar.gz", ".tgz", *COLUMNAR)
    return known or any(f.name.lower().endswith(ends) for f in folder.iterdir())


def _tars(folder: Path) -> list[Path]:
    return files_named(folder, "*.tar", "*.tar.gz", "*.tgz")


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*METADATA, METADATA_PARQUET))


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
