"""Karpathy's split files (COCO, Flickr30k, Flickr8k): one JSON beside the images, or in a tar.

The layout, from the files of https://cs.stanford.edu/people/karpathy/deepimagesent: ``dataset`` and
``images``; of each image ``filename``, ``filepath`` (COCO only: the folder), ``split`` and
``sentences`` with ``raw`` and ``tokens``. COCO's additional training images are in the split
``restval``; splits are joined with a plus: ``train+restval``.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vilta.data.sources.base import Item, Reader, Skipped, as_list, no_such_split
from vilta.data.sources.files import (
    NamedImagesReader,
    files_named,
    path_ends,
    read_json,
    tar_members,
)
from vilta.data.sources.options import SourceOptions
from vilta.json_text import parse_json

Entry = dict[str, Any]


class KarpathyReader(NamedImagesReader):
    """A split file and the folder that it is in, images anywhere below."""

    what = "Karpathy split file"

    def __init__(self, path: Path, content: Any, options: SourceOptions) -> None:
        data_set, entries, nameless = _entries(content, options.split, str(path))
        root = Path(options.images) if options.images else path.parent
        captions: dict[str, list[str]] = {}
        for entry in entries:
            captions.setdefault(_image_path(entry), []).extend(_captions(entry))
        super().__init__(str(path), root, captions, data_set, nameless)


class KarpathyTarReader(Reader):
    """A tar with a split file and its images, read as a stream; nothing is ever extracted."""

    what = "tar with a Karpathy split file"

    def __init__(self, path: Path, split: str) -> None:
        super().__init__(str(path))
        self.path = path
        name, content = _split_file(path)
        self.dataset, self.entries, self.nameless = _entries(content, split, f"{path}: {name}")

    @property
    def total(self) -> int:
        """Number of images of the split."""
        return len(self.entries)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the tar."""
        for each in self.nameless:
            self.skip(each.source, each.reason)
        wanted = {_image_path(entry): entry for entry in self.entries}
        try:
            for member, read in tar_members(self.path):
                name = member.name
                end = next((end for end in path_ends(name) if end in wanted), None)
                if end is None:
                    continue
                yield Item(
                    captions=_captions(wanted.pop(end)),
                    image_id=f"{self.dataset}/{PurePosixPath(end).name}",
                    source=f"{self.path.name}:{name}",
                    read=read,
                )
        except (tarfile.TarError, EOFError) as error:
            self.skip(str(self.path), f"the tar ends early: {error}")
        for filename in wanted:
            self.skip(filename, f"no such image in {self.path}")


def is_karpathy(content: Any) -> bool:
    """Tell whether parsed JSON has the layout of a split file."""
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        return False
    images = content["images"]
    return not images or (isinstance(images[0], dict) and "sentences" in images[0])


def find_karpathy(folder: Path, options: SourceOptions) -> KarpathyReader | None:
    """Return the reader of a folder with a split file, here or one folder below, or None."""
    below = (f for f in sorted(folder.iterdir()) if f.is_dir())
    files = _split_files(folder) or [f for inner in below for f in _split_files(inner)]
    if len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise ValueError(f"{folder} holds several split files; name one of them: {names}")
    return KarpathyReader(files[0], read_json(files[0]), options) if files else None


def _split_files(folder: Path) -> list[Path]:
    """Return what is named like a split file and is none of the files of `datasets`."""
    own = ("dataset_info.json", "dataset_dict.json")
    return [f for f in files_named(folder, "dataset_*.json") if f.name not in own]


def _split_file(tar: Path) -> tuple[str, Any]:
    """Return the name and the parsed content of the first split file in a tar."""
    name = ""
    try:
        for member, read in tar_members(tar):
            name = member.name
            if name.endswith(".json") and is_karpathy(content := parse_json(read())):
                return name, content
    except (ValueError, OSError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"{tar} cannot be read ({name or 'its start'}): {error}") from None
    raise ValueError(
        f"{tar} contains no Karpathy split file (dataset_*.json), and no image that shares its "
        "name with a text"
    )


def _entries(content: Any, split: str, where: str) -> tuple[str, list[Entry], list[Skipped]]:
    """Return the data set's name, the entries of a split, and what names no image.

    A split must be named if there are several.
    """
    if not is_karpathy(content):
        raise ValueError(f"{where} is not a Karpathy split file: it lacks images with sentences")
    entries, nameless = [], []
    for place, entry in enumerate(content["images"]):
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str) and entry["filename"]:
            entries.append(entry)
        else:
            reason = "it has no file name"
            nameless.append(Skipped(source=f"{where}: image {place}", reason=reason))
    splits = sorted({str(e.get("split")) for e in entries})
    if not split and len(splits) > 1:
        raise no_such_split(splits, "", where)
    if split:
        unknown = [s for s in split.split("+") if s not in splits]
        if unknown:
            raise no_such_split(splits, unknown[0], where)
        entries = [e for e in entries if e.get("split") in split.split("+")]
    return str(content.get("dataset") or "karpathy"), entries, nameless


def _image_path(entry: Entry) -> str:
    """Return the path of an image as far as it is known."""
    path = PurePosixPath(str(entry.get("filepath") or ""), entry["filename"].replace("\\", "/"))
    return path.as_posix()


def _captions(entry: Entry) -> list[str]:
    sentences = [s for s in as_list(entry.get("sentences")) if isinstance(s, dict)]
    return [s.get("raw") or " ".join(map(str, as_list(s.get("tokens")))) for s in sentences]
