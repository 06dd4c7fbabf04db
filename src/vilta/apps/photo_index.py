"""An index of a folder of photos: the content hash and the embedding of each file.

It consists of two files: ``photos.sqlite`` records the content hash of each file and the row of its
embedding; ``vectors.f16`` holds the rows in float16 and is mapped into memory. Rows are flushed
before SQLite's transaction names them, so an update that was killed anywhere loses at most one
batch. Copies are embedded once, and moved files are not embedded again. Several processes may
update one index at the same time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, UInt8
from torch import Tensor

from vilta.apps.image_input import DECODERS, open_image
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import IMAGE_SUFFIXES, bounded_bytes

LAYOUT = "vilta photo index, version 1"
BATCH = 64
"""Photos that are embedded and stored together; our choice."""
NEVER = -1
"""In place of the time of a file that is to be tried again."""
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, modified INTEGER,
                                  digest TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS vectors (digest TEXT PRIMARY KEY, row INTEGER UNIQUE);
CREATE INDEX IF NOT EXISTS by_digest ON files (digest);
"""

Embed = Callable[[UInt8[Tensor, "B 3 S S"]], Float32[np.ndarray, "B W"]]
Progress = Callable[[int, int], None]
"""Called with the number of new files done and their total."""


class ReplacedIndex(ValueError):
    """Another process has made the index anew, for another model or folder."""


class Photo(NamedTuple):
    """A photo of the index, under the first of its paths."""

    path: Path
    row: int
    copies: int
    """Number of files with this content."""


class Update(NamedTuple):
    """What an update of the index did."""

    new: int
    unchanged: int
    gone: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A file to index; ``pixels`` is None if its content is already known."""

    path: bytes
    size: int
    modified: int
    digest: str = ""
    pixels: Tensor | None = None
    reason: str = ""


class PhotoIndex:
    """The index of ``folder``, kept in ``place``, for the model whose hash is ``model``.

    An index of another model or layout, or one that has lost vectors, is replaced; ``replaced``
    then says why. Raises ``ValueError`` in one line if ``folder`` does not exist or ``place``
    cannot be written.
    """

    def __init__(self, folder: Path, place: Path, model: str, width: int) -> None:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {folder}")
        self.folder, self.width, self._place = folder, width, place
        self._vectors_path = place / "vectors.f16"
        self._about = {
            "layout": LAYOUT,
            "model": model,
            "folder": str(folder.resolve()),
            "width": str(width),
        }
        with _errors_told(place):
            place.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(place / "photos.sqlite", timeout=30, check_same_thread=False)
            self._db.executescript(_TABLES)
            # Not truncated: another process may have it mapped into its memory.
            self._vectors_path.touch()
            self.replaced = "" if self._usable() else self._begin_anew()

    def _recorded(self) -> dict[str, str]:
        """Return whose index this is, as it is recorded in it."""
        return dict(self._db.execute("SELECT name, value FROM about"))

    def _usable(self) -> bool:
        """Return whether the index is ours, and the file has every row that it names."""
        named = self._rows() * self.width * 2  # asked first: the file grows before they are named
        return self._recorded() == self._about and self._vectors_path.stat().st_size >= named

    def _begin_anew(self) -> str:
        """Make the index ours and empty; return what was wrong with the one that was there."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            known = self._recorded()
            if self._usable():  # another process has just made the same
                return ""
            for table in ("about", "files", "vectors"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.executemany("INSERT INTO about VALUES (?, ?)", self._about.items())
        if not known:
            return ""
        return "has lost vectors" if known == self._about else "belongs to another model or folder"

    def close(self) -> None:
        """Close the files."""
        self._db.close()

    def update(self, embed: Embed, image_size: int, progress: Progress | None = None) -> Update:
        """Find new, changed and deleted photos, and embed the new ones.

        A file that only lacked an extra, or that the system refused, is tried again.
        It may be interrupted at any time; the next update continues. Raises ``ValueError`` if the
        index cannot be written, or another model has replaced it.
        """
        with _errors_told(self._place):
            return self._update(embed, image_size, progress)

    def _update(self, embed: Embed, image_size: int, progress: Progress | None) -> Update:
        known = {
            path: (size, modified)
            for path, size, modified in self._db.execute(
                "SELECT path, size, modified FROM files WHERE reason NOT LIKE '%pip install%'"
            )
        }
        found = dict(_photos_below(self.folder))
        paths = self._db.execute("SELECT path FROM files").fetchall()
        gone = [path for (path,) in paths if path not in found]
        with self._db:
            self._db.executemany("DELETE FROM files WHERE path = ?", ((path,) for path in gone))
        fresh = [(path, state) for path, state in found.items() if known.get(path) != state]
        skipped = 0
        waiting: list[_Work] = []
        for done, work in enumerate(self._looked_at(fresh, image_size), start=1):
            waiting.append(work)
            skipped += bool(work.reason)
            if len(waiting) == BATCH:
                self._store(waiting, embed)
                waiting = []
            if progress is not None:
                progress(done, len(fresh))
        self._store(waiting, embed)
        return Update(len(fresh) - skipped, len(found) - len(fresh), len(gone), skipped)

    def photos(self) -> list[Photo]:
        """Return every photo once, even if several files hold it."""
        rows = self._db.execute(
            "SELECT MIN(path), row, COUNT(*) FROM files JOIN vectors USING (digest) "
            "GROUP BY digest ORDER BY row"
        )
        return [Photo(self.folder / os.fsdecode(path), row, count) for path, row, count in rows]

    def count(self) -> int:
        """Return the number of ``photos``."""
        query = "SELECT COUNT(DISTINCT digest) FROM files JOIN vectors USING (digest)"
        return self._db.execute(query).fetchone()[0]

    def path(self, row: int) -> Path | None:
        """Return the path of the photo with this row, or None if there is none.

        Raises ``ReplacedIndex`` if its rows are those of another folder.
        """
        self._require_own()
        query = "SELECT MIN(path) FROM files JOIN vectors USING (digest) WHERE row = ?"
        (path,) = self._db.execute(query, (row,)).fetchone()
        return None if path is None else self.folder / os.fsdecode(path)

    def skipped(self) -> list[tuple[Path, str]]:
        """Return the files that are not in the index, and why."""
        rows = self._db.execute("SELECT path, reason FROM files WHERE reason <> '' ORDER BY path")
        return [(self.folder / os.fsdecode(path), reason) for path, reason in rows]

    def vectors(self) -> Float16[np.ndarray, "N W"]:
        """Return all rows, mapped into memory; ``Photo.row`` is an index into them.

        Raises ``ReplacedIndex`` if another model has replaced it since.
        """
        self._require_own()
        rows = self._rows()
        if rows == 0:
            return np.empty((0, self.width), np.float16)
        shape = (rows, self.width)
        return np.memmap(self._vectors_path, dtype=np.float16, mode="r", shape=shape)

    def _stored(self, digests: Iterable[str]) -> list[str]:
        """Return those of the digests whose embedding is in the index."""
        asked = tuple(digests)
        query = f"SELECT digest FROM vectors WHERE digest IN ({','.join('?' * len(asked))})"
        return [digest for (digest,) in self._db.execute(query, asked)]

    def _require_own(self) -> None:
        """Refuse to go on with an index that another process has made anew for another model."""
        if self._recorded() != self._about:
            raise ReplacedIndex(
                f"the index in {self._place} was replaced, for another model or folder; "
                "give each a place of its own with --index"
            )

    def _rows(self) -> int:
        return self._db.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM vectors").fetchone()[0]

    def _looked_at(
        self, fresh: Sequence[tuple[bytes, tuple[int, int]]], size: int
    ) -> Iterator[_Work]:
        """Read and decode files in parallel, and yield them in order."""
        known = {digest for (digest,) in self._db.execute("SELECT digest FROM vectors")}

        def look(path: bytes, state: tuple[int, int]) -> _Work:
            about = {"path": path, "size": state[0], "modified": state[1]}
            try:
                data = bounded_bytes(self.folder / os.fsdecode(path))
                digest = hashlib.blake2b(data, digest_size=16).hexdigest()
                if digest in known:
                    return _Work(**about, digest=digest)  # type: ignore[arg-type]
                pixels = evaluation_tensor(open_image(data, size), size)
            except OSError as error:  # what changes that need not change the file
                about["modified"] = NEVER
                return _Work(**about, reason=error.strerror or str(error))  # type: ignore[arg-type]
            except ValueError as error:
                return _Work(**about, reason=str(error).removeprefix("image: "))  # type: ignore[arg-type]
            return _Work(**about, digest=digest, pixels=pixels)  # type: ignore[arg-type]

        files = iter(fresh)
        with ThreadPoolExecutor(DECODERS) as pool:
            ahead: deque[Future[_Work]] = deque()
            try:
                while True:
                    while len(ahead) < 2 * BATCH and (each := next(files, None)) is not None:
                        ahead.append(pool.submit(look, *each))
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _store(self, works: Sequence[_Work], embed: Embed) -> None:
        """Embed a batch, write its rows to the disk, and only then name them in the database.

        Another process may store the same photos at the same time: which rows are free is looked at
        where nobody else can write.
        """
        if not works:
            return
        pixels = {work.digest: work.pixels for work in works if work.pixels is not None}
        for digest in self._stored(pixels):
            del pixels[digest]
        new = {}
        if pixels:
            new = dict(zip(pixels, embed(torch.stack([*pixels.values()])), strict=True))
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._require_own()
            for digest in self._stored(new):
                del new[digest]
            first = self._rows()
            if new:
                with open(self._vectors_path, "r+b") as file:
                    file.seek(first * self.width * 2)  # beyond is left from a killed update
                    file.write(np.stack(list(new.values())).astype(np.float16).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            numbered = [(digest, first + i) for i, digest in enumerate(new)]
            self._db.executemany("INSERT INTO vectors VALUES (?, ?)", numbered)
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                [(w.path, w.size, w.modified, w.digest, w.reason) for w in works],
            )


@contextmanager
def _errors_told(place: Path) -> Iterator[None]:
    """Tell what the system or SQLite refuses in one line."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = " ".join(str(error).split())  # it may quote what the file holds
        raise ValueError(f"the index in {place} cannot be used: {reason}") from None


def cosines(
    vectors: Float16[np.ndarray, "N W"], query: Float32[np.ndarray, "W"]
) -> Float[np.ndarray, "N"]:
    """Return the product of every row with the query, a few thousand rows at a time."""
    scores = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 8192):  # float16 products are slow, so they are widened
        block = vectors[start : start + 8192]
        scores[start : start + len(block)] = block.astype(np.float32) @ query
    return scores


def _photos_below(folder: Path) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield image files with size and time; hidden files and folders (``._`` ones too) are left.

    Paths are relative and bytes, for a file's name need not be text.
    """
    root = os.fsencode(folder)
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(b"."))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(b".") or suffix.decode("ascii", "replace") not in IMAGE_SUFFIXES:
                continue
            path = os.path.join(parent, name)
            try:
                state = os.stat(path)
            except OSError:
                continue  # a link that leads nowhere
            yield os.path.relpath(path, root), (state.st_size, state.st_mtime_ns)
