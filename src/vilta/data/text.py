"""Captions without images, for the language model."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from vilta.data.order import Key
from vilta.data.sources import SourceOptions, load_pairs, named_options
from vilta.data.sources.table_file import is_table, table_captions
from vilta.data.sources.tables import decoded, decoded_bytes, lines_of
from vilta.seeds import stable_hash
from vilta.types import Sample

LONGEST_LINE = 4 * 2**20
"""Bytes of a line of a packed text file: a few thousand bytes of zeros may unpack to gigabytes
(our choice)."""


class TextDataset:
    """Captions as samples without pixels (``[3, 0, 0]``), so that loaders and collator serve both.

    ``name`` is what error messages call the data.
    """

    def __init__(self, captions: Sequence[str], name: str) -> None:
        if not captions:
            raise ValueError(f"{name}: no captions")
        self.captions, self.name = captions, name
        self._pixels = torch.empty(3, 0, 0, dtype=torch.uint8)

    def __len__(self) -> int:
        """Return the number of captions."""
        return len(self.captions)

    def __getitem__(self, key: Key) -> Sample:
        """Return the caption of (epoch, row); only its mask depends on the epoch."""
        epoch, row = key
        name = f"{self.name}#{row}"
        return Sample(
            pixels=self._pixels,
            caption=self.captions[row],
            image_id=name,
            image_hash=stable_hash(name),
            index=row,
            epoch=epoch,
            name=name,
        )

    def caption_lengths(self, keys: list[Key]) -> list[int]:
        """Return how many characters the captions of these samples have."""
        return [len(self.captions[row]) for _, row in keys]


def caption_lines(path: str) -> list[str]:
    """Return the captions of a text file (one per line, may be .gz), a table or a source of pairs.

    Blank lines are left out, and the images of a table are not looked for. A path may name an
    encoding: ``captions.txt?encoding=latin-1``. Raises ``ValueError`` with one line if nothing can
    be read.
    """
    place, options = named_options(path, SourceOptions())
    file = Path(place)
    if is_table(file, options):
        lines = table_captions(file, options)
    elif not place.endswith((".txt", ".txt.gz")):
        return [c for row in load_pairs(path)["captions"] for c in row if c and not c.isspace()]
    elif not file.is_file():
        raise ValueError(f"no such text file: {place}")
    else:
        lines = lines_of(_text(file, options.encoding))
    lines = [line.strip() for line in lines if line and not line.isspace()]
    if not lines:
        raise ValueError(f"{place} contains no captions")
    return lines


def _text(path: Path, encoding: str) -> str:
    if path.suffix != ".gz":
        return decoded(path, encoding)
    parts: list[bytes] = []
    line = 0
    try:
        with gzip.open(path) as file:
            while part := file.read(2**20):
                parts.append(part)
                line = len(part) - 1 - part.rfind(b"\n") if b"\n" in part else line + len(part)
                if line > LONGEST_LINE:
                    raise ValueError(
                        f"{path} is not text with a caption a line: one is longer than "
                        f"{LONGEST_LINE:,} bytes"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return decoded_bytes(b"".join(parts), str(path), encoding)
