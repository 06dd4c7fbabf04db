"""Statistics of image-text pairs: counts, sizes, words, duplicates."""

from __future__ import annotations

import hashlib
import io
import re
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from vilta.data.sources import PairRow
from vilta.decoding import decode_image

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
LOOK_SIDE = 8
"""Rows of the difference hash: 64 bits that describe what a picture looks like."""
DECODED_SIDE = 64
"""Short side, in pixels, to which pictures may be decoded for the hash."""
BANDS = 4
"""Parts of a hash. Two hashes that differ in fewer bits than this agree in one part: these count
as the same look. Of 200 photos of Flickr8k at half the size, JPEG quality 70, 87 % agree with
the original; of two million pairs of different ones, none."""
FLAT = 10
"""Pictures whose hash has fewer bits set, or unset, look like many others: they are not compared
(our choice)."""


class ImageHashes:
    """Difference hashes, to be found again when a few bits differ."""

    def __init__(self) -> None:
        self.parts: list[dict[int, array[int]]] = [{} for _ in range(BANDS)]

    def find(self, look: int) -> int | None:
        """Return the first hash that was added and differs in fewer than ``BANDS`` bits."""
        for known, part in zip(self.parts, _parts(look), strict=True):
            if (others := known.get(part)) is not None:
                # All at once: many pictures with an even margin have a part in common.
                bits = np.frombuffer(others, np.uint64) ^ np.uint64(look)
                for _ in range(BANDS - 1):
                    bits &= bits - 1  # one bit less, until none is left
                if not bits.all():
                    return others[int(bits.argmin())]
        return None

    def add(self, look: int) -> None:
        """Remember a hash."""
        for known, part in zip(self.parts, _parts(look), strict=True):
            known.setdefault(part, array("Q")).append(look)


def _parts(look: int) -> list[int]:
    bits = LOOK_SIDE**2 // BANDS
    return [look >> (place * bits) & ((1 << bits) - 1) for place in range(BANDS)]


@dataclass
class Inspection:
    """Everything that is counted. Duplicates are lists of row numbers, of one kind together."""

    images: int = 0
    captions: int = 0
    total_bytes: int = 0
    captions_per_image: Counter[int] = field(default_factory=Counter)
    words_per_caption: Counter[int] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason of each image that cannot be decoded."""
    names: list[str] = field(default_factory=list)
    """What each row is called on the screen; two rows may have the same name."""
    by_content: dict[bytes, list[int]] = field(default_factory=dict)
    """Rows whose images have the same bytes."""
    by_hash: dict[int, list[int]] = field(default_factory=dict)
    """Rows whose images look the same, by the hash of the first of them."""
    hashes: ImageHashes = field(default_factory=ImageHashes)
    by_caption: Counter[bytes] = field(default_factory=Counter)
    """How often each caption occurs, ignoring case and punctuation."""

    def median_size(self) -> tuple[float, float]:
        """Return the median width and height in pixels."""
        sides = (self.widths or [0], self.heights or [0])
        width, height = (float(statistics.median(side)) for side in sides)
        return width, height

    def repeated_captions(self) -> int:
        """Return how many captions occur more than once, counting each but the first."""
        return sum(count - 1 for count in self.by_caption.values())


def inspect_pairs(rows: Iterable[PairRow]) -> Inspection:
    """Read all pairs once; images are decoded small, and none is kept."""
    found = Inspection()
    for number, row in enumerate(rows):
        data = row["image"]["bytes"]
        found.names.append(_name(row))
        found.images += 1
        found.total_bytes += len(data)
        found.captions += len(row["captions"])
        found.captions_per_image[len(row["captions"])] += 1
        for caption in row["captions"]:
            words = [word.lower() for word in WORD.findall(caption)]
            found.words_per_caption[len(words)] += 1
            found.words.update(words)
            found.by_caption[_hash(" ".join(words).encode())] += 1
        found.by_content.setdefault(_hash(data), []).append(number)
        try:
            image = decode_image(data, DECODED_SIDE)
        except ValueError as error:
            found.broken.append((found.names[-1], str(error)))
            continue
        with Image.open(io.BytesIO(data)) as header:
            found.widths.append(header.width)
            found.heights.append(header.height)
            found.formats[header.format or "unknown"] += 1
        look = look_of(image)
        if FLAT <= look.bit_count() <= LOOK_SIDE**2 - FLAT:
            known = found.hashes.find(look)
            if known is None:
                found.hashes.add(look)
            found.by_hash.setdefault(look if known is None else known, []).append(number)
    return found


def look_of(image: Image.Image) -> int:
    """Return the difference hash: whether each of 8 x 8 cells is darker than its right one."""
    small = image.convert("L").resize((LOOK_SIDE + 1, LOOK_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small).astype(np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")


def same_images(first: Inspection, other: Inspection) -> list[tuple[str, str, str]]:
    """Return (name here, name there, kind of duplicate) for images that both data contain."""
    found: dict[int, tuple[int, str]] = {}
    for digest, rows in other.by_content.items():
        if digest in first.by_content:
            for there in rows:
                found[there] = (first.by_content[digest][0], "identical bytes")
    for look, rows in other.by_hash.items():
        if (known := first.hashes.find(look)) is not None:
            for there in rows:
                found.setdefault(there, (first.by_hash[known][0], "similar picture"))
    return [(first.names[here], other.names[there], how) for there, (here, how) in found.items()]


def same_captions(first: Inspection, other: Inspection) -> int:
    """Return how many distinct captions both data contain."""
    return len(first.by_caption.keys() & other.by_caption.keys())


def repeated(groups: Iterable[list[int]]) -> list[list[int]]:
    """Return the groups with more than one row, the largest first."""
    return sorted((group for group in groups if len(group) > 1), key=len, reverse=True)


def _name(row: PairRow) -> str:
    """Return the source of a row, with its id where rows of one source share it."""
    source, image_id = str(row["source"]), str(row["image_id"])
    return source if image_id in source else f"{source}: {image_id}"


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()
