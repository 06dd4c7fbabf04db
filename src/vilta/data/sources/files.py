"""What several readers share: images by name below a folder, members of a tar, huge JSON arrays."""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from vilta.data.sources.base import APPLE_DOUBLE, Item, Place, Reader, Skipped, as_text
from vilta.decoding import IMAGE_SUFFIXES, bounded_bytes
from vilta.json_text import parse_json

CHUNK = 2**20
"""Characters of a JSON array that are read at once."""
LONGEST_PATH = 4096
"""Characters; no file system has longer ones."""
LARGEST_DESCRIPTION = 2**20
"""Bytes of a tar member's long name or attributes; they are a few hundred (our choice)."""
LARGEST_OBJECT = 2**26
"""Characters of one element of a JSON array; a longer one is taken for a broken file."""


class NamedImagesReader(Reader):
    """Captions by image name, the images anywhere below a folder (``ImageFiles``).

    ``unusable`` is what the file of captions holds that names no image, or none that is known.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        captions: Mapping[str, list[Any]],
        data_set: str,
        unusable: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(name)
        self.root, self.captions, self.data_set = root, captions, data_set
        self.unusable = unusable

    @property
    def total(self) -> int:
        """Number of images that are named."""
        return len(self.captions)

    def items(self) -> Iterator[Item]:
        """Yield the images in the order of the captions' file."""
        for each in self.unusable:
            self.skip(each.source, each.reason)
        files = ImageFiles(self.root)
        of_path: dict[Path, list[Any]] = {}
        for where, captions in self.captions.items():
            path = find_or_skip(self, files, where, where)
            if path is not None:  # two names may lead to the same file
                of_path.setdefault(path, []).extend(captions)
        names = Counter(path.name for path in of_path)
        for path, captions in of_path.items():
            place = path.relative_to(self.root).as_posix()
            name = path.name if names[path.name] == 1 else place
            image_id = f"{self.data_set}/{name}" if self.data_set else place
            read = partial(bounded_bytes, path)
            yield Item(captions=captions, image_id=image_id, source=str(path), read=read)


class ImageFiles:
    """The image files below a folder, each found by its path, or by as much of it as is known.

    A key and a file belong together if one of their paths is an end of the other: ``a/1.jpg`` finds
    ``photos/a/1.jpg``, and ``coco/a/1.jpg`` finds ``a/1.jpg``; ``b/1.jpg`` finds neither. A name
    may also do without its suffix.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def ends(self) -> dict[str, list[Path]]:
        """The files by each end of their paths."""
        ends: dict[str, list[Path]] = {}
        for path in image_paths(self.root):
            for end in path_ends(path.relative_to(self.root).as_posix()):
                ends.setdefault(end, []).append(path)
        return ends

    @cached_property
    def stems(self) -> dict[str, list[Path]]:
        """The files by their names without suffix."""
        stems: dict[str, list[Path]] = {}
        for end, paths in self.ends.items():
            if "/" not in end:
                stems.setdefault(PurePosixPath(end).stem, []).extend(paths)
        return stems

    def find(self, key: str) -> Path | None:
        """Return the file of a key, or None; ``ValueError`` if several fit equally well.

        Only files below the root are found, whatever the key is.
        """
        if len(key) > LONGEST_PATH:
            return None
        key = posixpath.normpath(key.replace("\\", "/"))
        if key.split("/")[0] == "..":  # another file of the same name is not the one
            return None
        whole = self.root / key
        known = key.lower().endswith(IMAGE_SUFFIXES) and "\0" not in key
        if known and key[0] != "/" and os.path.isfile(whole):
            return whole  # the folder need not be walked through
        for end in path_ends(key):
            found = self.ends.get(end, [])
            if end != key:  # folders above the root do not matter, others do
                found = [path for path in found if path == self.root / end]
            if found:
                return whole if whole in found else self._only(key, found)
        if key.lower().endswith(IMAGE_SUFFIXES):
            return None
        return self._only(key, self.stems.get(key, []))

    def _only(self, key: str, found: list[Path]) -> Path | None:
        if len(found) > 1:
            places = " and ".join(str(path.relative_to(self.root)) for path in found[:2])
            raise ValueError(f"{key!r} is {places} below {self.root}; name its folder too")
        return found[0] if found else None


def image_paths(root: Path) -> Iterator[Path]:
    """Yield the image files below a folder, by name."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(APPLE_DOUBLE):
                yield Path(folder, name)


def not_named(root: Path, named: Collection[Path]) -> Iterator[Skipped]:
    """Yield the images below a folder that its table does not name."""
    for path in image_paths(root):
        if path not in named:
            yield Skipped(
                source=as_text(str(path)), reason="no caption: the table does not name it"
            )


def find_or_skip(reader: Reader, files: ImageFiles, key: str, where: str) -> Path | None:
    """Return the file of a key; where there is none, or not one, ``where`` is skipped."""
    try:
        path, reason = files.find(key), f"no such image below {files.root}"
    except ValueError as error:
        path, reason = None, str(error)
    if path is None:
        reader.skip(where, reason)
    return path


def path_ends(path: str) -> Iterator[str]:
    """Yield a path, and what is left of it without its first folder, its first two, and so on."""
    parts = PurePosixPath(path).parts
    yield from ("/".join(parts[start:]) for start in range(len(parts)))


def files_named(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder whose names fit one of the patterns, sorted.

    No pipes and devices, for which a reader would wait without an end.
    """
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return sorted(path for path in found if path.is_file())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; ``ValueError`` in one line if it is none."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None


def json_array(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON array one by one; the file is never whole in memory.

    Raises ``ValueError`` with one line, at the place where the file breaks off.
    """
    decode = json.JSONDecoder().raw_decode
    with open(path, encoding="utf-8-sig") as file:
        text = _read(file, path)
        place = len(text) - len(text.lstrip())
        if not text.startswith("[", place):
            raise ValueError(f"{path} is not a JSON array")
        place += 1
        while True:
            while place < len(text) and text[place] in " \t\r\n,":
                place += 1
            if text.startswith("]", place):
                _check_end(text[place + 1 :], file, path)
                return
            try:
                value, place = decode(text, place)
            except (ValueError, RecursionError):
                more = _read(file, path)
                if not more or len(text) - place > LARGEST_OBJECT:
                    raise ValueError(f"{path} is broken JSON, or ends in the middle") from None
                text, place = text[place:] + more, 0
            else:
                yield value


def _check_end(text: str, file: TextIO, path: Path) -> None:
    """Raise ``ValueError`` if anything follows, such as another list."""
    while not text.strip():
        if not (text := _read(file, path)):
            return
    raise ValueError(f"{path} goes on after its list; make it one list, or a .jsonl of its items")


def _read(file: TextIO, path: Path) -> str:
    try:
        return file.read(CHUNK)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8, as JSON must be") from None


def tar_members(path: Place) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """Yield the regular files of a tar, and a function that reads each before the next is asked.

    The tar is a stream: nothing is extracted, links are not followed, names are only names.
    """
    with path.open("rb") as file, _opened(file) as archive:
        while (member := _next(archive)) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would remember them all
            if member.isfile():
                yield member, partial(_read_member, archive, member)


def is_tar(path: Path) -> bool:
    """Tell whether a file begins as a tar does, packed or not."""
    try:
        with path.open("rb") as file, _opened(file):
            return True
    except (tarfile.TarError, EOFError, OSError):
        return False


def _opened(file: Any) -> tarfile.TarFile:
    try:
        ending: Any = _Ending(file)
        return tarfile.open(fileobj=ending, mode="r|*", tarinfo=_BoundedMember)
    except RecursionError:
        raise tarfile.ReadError(_IN_CIRCLES) from None
    except TypeError:  # what tarfile makes of a compressed file that ends in its head
        raise tarfile.ReadError("its head is cut off") from None


def _next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except RecursionError:
        raise tarfile.ReadError(_IN_CIRCLES) from None


_IN_CIRCLES = "a member has hundreds of descriptions"


class _Ending:
    """A file that ends: tarfile would go on reading nothing for as long as a member's size says."""

    def __init__(self, file: Any) -> None:  # also one of an object store
        self.file, self.empty = file, 0

    def read(self, size: int) -> bytes:
        """Return the next bytes; ``EOFError`` where nothing was left several times."""
        data: bytes = self.file.read(size)
        self.empty += not data
        if self.empty > _ENDS:
            raise EOFError("a member promises more bytes than there are")
        return data


_ENDS = 16
"""How often a tar is read at its end; twice when nothing is wrong."""


class _BoundedMember(tarfile.TarInfo):
    """A member whose own description is short: tarfile reads it whole, and it may be packed."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _DESCRIPTIONS and self.size > LARGEST_DESCRIPTION:
            raise tarfile.ReadError(f"the description of a member has {self.size:,} bytes")
        read: Callable[[tarfile.TarFile], tarfile.TarInfo] = super()._proc_member  # type: ignore
        return read(archive)


_DESCRIPTIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "a regular file"
    try:
        return file.read()
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"cut short: {error}") from None
