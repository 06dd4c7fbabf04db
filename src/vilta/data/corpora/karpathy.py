"""Karpathy's split files (COCO, Flickr30k, Flickr8k): one JSON beside the images, or in a tar.

The layout, from the files of https://cs.stanford.edu/people/karpathy/deepimagesent: ``dataset`` and
``images``; of each image ``filename``, ``filepath`` (COCO only: the folder), ``split`` and
``sentences`` with ``raw`` and ``tokens``. COCO's additional training images are in the split
``restval``; splits are joined with a plus: ``train+restval``.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from vilta.data.corpora.base import IMAGE_SUFFIXES, Item, Reader

Entry = dict[str, Any]


class KarpathyReader(Reader):
    """A split file and the folder that it is in, images anywhere below."""

    what = "Karpathy split file"

    def __init__(self, path: Path, split: str) -> None:
        super().__init__(str(path))
        self.path = path
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not readable JSON: {error}") from None
        self.dataset, self.entries = _entries(content, split, str(path))

    @property
    def total(self) -> int:
        """Number of images of the split."""
        return len(self.entries)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the file."""
        files = _image_files(self.path.parent)
        for entry in self.entries:
            where = str(PurePosixPath(entry.get("filepath") or "", entry["filename"]))
            path = files.get(where) or files.get(entry["filename"])
            if path is None:
                self.skip(where, f"no such image below {self.path.parent}")
                continue
            yield _item(self.dataset, entry, str(path), path.read_bytes)


class KarpathyTarReader(Reader):
    """A tar with a split file and its images, read as a stream; nothing is ever extracted."""

    what = "tar with a Karpathy split file"

    def __init__(self, path: Path, split: str) -> None:
        super().__init__(str(path))
        self.path = path
        name, content = _split_file(path)
        self.dataset, self.entries = _entries(content, split, f"{path}: {name}")

    @property
    def total(self) -> int:
        """Number of images of the split."""
        return len(self.entries)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the tar."""
        wanted = {entry["filename"]: entry for entry in self.entries}
        try:
            for name, read in _members(self.path):
                entry = wanted.get(PurePosixPath(name).name)
                folder = (entry or {}).get("filepath")
                if entry is None or (folder and PurePosixPath(name).parent.name != folder):
                    continue
                del wanted[entry["filename"]]
                yield _item(self.dataset, entry, f"{self.path.name}:{name}", read)
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


def _split_file(tar: Path) -> tuple[str, Any]:
    """Return the name and the parsed content of the first split file in a tar."""
    name = ""
    try:
        for name, read in _members(tar):
            if name.endswith(".json") and is_karpathy(content := json.loads(read())):
                return name, content
    except (ValueError, OSError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"{tar} cannot be read ({name or 'its start'}): {error}") from None
    raise ValueError(f"{tar} holds no Karpathy split file (dataset_*.json)")


def _entries(content: Any, split: str, where: str) -> tuple[str, list[Entry]]:
    """Return the name of the data set and the entries of a split (of all if none is named)."""
    if not is_karpathy(content):
        raise ValueError(f"{where} is no Karpathy split file: images with sentences are missing")
    entries = [e for e in content["images"] if isinstance(e, dict) and _is_name(e.get("filename"))]
    if split:
        splits = sorted({str(e.get("split")) for e in entries})
        unknown = [s for s in split.split("+") if s not in splits]
        if unknown:
            raise ValueError(f"{where}: no split {unknown[0]!r}; there are: {', '.join(splits)}")
        entries = [e for e in entries if e.get("split") in split.split("+")]
    return str(content.get("dataset") or "karpathy"), entries


def _is_name(filename: Any) -> bool:
    return isinstance(filename, str) and filename == os.path.basename(filename) != ""


def _item(dataset: str, entry: Entry, source: str, read: Any) -> Item:
    sentences = entry.get("sentences")
    captions = [
        s.get("raw") or " ".join(map(str, s.get("tokens") or []))
        for s in (sentences if isinstance(sentences, list) else [])
        if isinstance(s, dict)
    ]
    image_id = f"{dataset}/{entry['filename']}"
    return Item(captions=captions, image_id=image_id, source=source, read=read)


def _image_files(root: Path) -> dict[str, Path]:
    """Map every image's name, and its folder with its name, to its path."""
    files: dict[str, Path] = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES):
                path = Path(folder, name)
                files.setdefault(name, path)
                files.setdefault(f"{path.parent.name}/{name}", path)
    return files


def _members(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the regular files of a tar and a function that reads each; links are not followed."""
    with tarfile.open(path, "r|*") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would remember them all
            if member.isfile():
                yield member.name, partial(_read_member, archive, member)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "a regular file"
    try:
        return file.read()
    except tarfile.TarError as error:
        raise OSError(f"cut short: {error}") from None
