"""Image bytes to upright RGB pixels, safely: the one decoder of training, evaluation and use."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from vilta.muting import muted

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened at all; Pillow has more decoders than a data set needs (our choice)."""
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".img",
    ".heic",
    ".heif",
)
"""File names that are taken for images; the content decides in the end."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What a HEIC or HEIF file says it is, after ``ftyp`` (ISO/IEC 23008-12, annex B)."""
MIN_SIDE = 8
"""Images with a shorter side are refused: a model sees nothing in them (our choice)."""
MAX_PIXELS = 80_000_000
"""Images with more pixels are refused before one is decoded (our choice; Pillow warns at 89 M)."""
MAX_ASPECT = 100
"""Images whose long side is more than so many times the short one are refused: resized by their
short side, as encoders want them, they could be larger than the machine (our choice)."""
MAX_SCANS = 100
"""Progressive JPEG files have about 10 scans; more than so many are refused (our choice). Each scan
goes over the whole picture, and an empty one is a few bytes."""
LARGEST_FILE = 2**28
"""Bytes of a file; a larger one is not taken for an image (our choice)."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT = 2**20
"""Bytes of a text, decompressed, that Pillow reads (its MAX_TEXT_CHUNK)."""
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks that hold a keyword and a text, or a profile, mostly compressed (PNG, 11.3)."""


def bounded_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file, an image or a caption, links followed.

    ``OSError`` if it cannot be read, is larger than ``LARGEST_FILE``, or has no end, as a pipe or a
    device that somebody has put into a folder.
    """
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, os.O_RDONLY | flags)
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if about.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"larger than {LARGEST_FILE // 2**20} MiB", str(path))
        return file.read()


def decode_image(data: bytes, short_side: int = 0) -> Image.Image:
    """Decode untrusted bytes to an upright RGB image; of an animation, its first frame.

    With ``short_side`` (pixels) a JPEG may be decoded at 1/2, 1/4 or 1/8 scale, never below that
    side, which is much faster; 0 decodes it whole.

    Raises ``ValueError`` with one line for anything that is not a usable image.
    """
    with _opened(data) as image:
        if short_side:
            image.draft("RGB", cover(image.size, short_side))
        image.load()
        return upright_rgb(image)


def decode_pixels(data: bytes, short_side: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """Decode as :func:`decode_image` does, to an array: an ordinary JPEG in less time."""
    with _opened(data) as image:
        ordinary = image.format == "JPEG" and image.mode == "RGB"
        if ordinary and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            smaller = [s for s in (8, 4, 2) if min(image.size) // s >= short_side > 0]
            scale = max(smaller, default=1)
            width, height = (-(-side // scale) for side in image.size)
            # Else Pillow has the last word on a file that is not quite right.
            with suppress(ValueError):
                return simplejpeg.decode_jpeg(
                    data,
                    "RGB",
                    fastdct=False,
                    fastupsample=False,
                    min_height=height,
                    min_width=width,
                )
    return np.array(decode_image(data, short_side))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn an opened image as its EXIF says, and convert it from any mode to RGB.

    Transparent pixels become white; see ``bytes_of`` for grey of more than 8 bits. Raises
    ``ValueError`` for an image that is too small or too large, as ``decode_image`` does.
    """
    _check_size(*image.size)
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):  # Pillow would clip all above 255
        return Image.fromarray(bytes_of(np.asarray(image))).convert("RGB")
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an image over white, a strip at a time: three copies of it all would be 1 GB."""
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        opaque.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return opaque


_STRIP = 256
"""Rows of a strip."""


def picture_of(pixels: np.ndarray) -> Image.Image:
    """Return an array ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` of 1, 3 or 4 colours as RGB.

    See ``bytes_of`` for values of other types. Raises ``ValueError`` for another shape.
    """
    colours = (1, 3, 4)
    if pixels.ndim == 3 and pixels.shape[0] in colours and pixels.shape[-1] not in colours:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in colours):
        raise ValueError(
            f"an array of shape {list(pixels.shape)} is not an image; give [height, width, 3]"
        )
    if pixels.shape[-1] == 1:
        pixels = pixels.squeeze(-1)
    return upright_rgb(Image.fromarray(np.ascontiguousarray(bytes_of(pixels))))


def bytes_of(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    """Return pixel values of another type as bytes.

    16-bit values lose their low byte. Floats are taken as 0 to 1, wider integers as 0 to 255;
    where they exceed that, as 0 to 255 and as 16 bits. Raises ``ValueError`` for values beyond.
    """
    if values.dtype == np.uint8:
        return values
    top = values.max(initial=0)
    if values.dtype.kind == "f":
        scaled = values * 255 if top <= 1 else values
    else:
        scaled = values if values.itemsize > 2 and top <= 255 else values >> 8
    if not (scaled.min(initial=0) >= 0 and scaled.max(initial=0) <= 255):  # also for NaN
        raise ValueError(
            f"{values.dtype} pixels from {values.min()} to {top} have no known scale; convert the "
            "image to 8 bits"
        )
    return scaled.round().astype(np.uint8)


def cover(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return ``size`` scaled so that the short side is ``short_side``."""
    scale = short_side / min(size)
    return max(short_side, round(size[0] * scale)), max(short_side, round(size[1] * scale))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image whose size is bearable; whatever goes wrong inside is a ``ValueError``."""
    if not data:
        raise ValueError("empty file")
    try:
        with muted:  # broken EXIF, odd ICC profiles: the pixels decide
            file = io.BytesIO(without_long_texts(data))
            with Image.open(file, formats=formats_of(data)) as image:
                _check_size(*image.size)
                if image.format == "JPEG":
                    _check_scans(data)
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except _BROKEN as error:
        raise ValueError(f"broken image: {' '.join(str(error).split())}") from None
    except ValueError as error:  # libheif's own may be several lines
        raise ValueError(" ".join(str(error).split())) from None


def formats_of(data: bytes) -> tuple[str, ...]:
    """Return the formats that an image file may be opened as; ``ValueError`` for a HEIC photo
    where the extra that reads it is missing.
    """
    if data[4:8] != b"ftyp" or data[8:12] not in HEIF_BRANDS:
        return FORMATS
    try:
        import pillow_heif
    except ImportError:
        raise ValueError("a HEIC photo; pip install 'vilta[heic]' reads it") from None
    pillow_heif.register_heif_opener(thumbnails=False)
    return ("HEIF",)


_BROKEN = (
    OSError,
    SyntaxError,
    struct.error,
    EOFError,
    OverflowError,
    KeyError,
    IndexError,
    RuntimeError,
)
"""What Pillow's decoders raise for broken files, besides ``ValueError`` itself."""


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"too small: {width}x{height} pixels, needed are {MIN_SIDE} on each side")
    if width * height > MAX_PIXELS:
        raise ValueError(f"too large: {width}x{height} pixels, the limit is {MAX_PIXELS:,}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"too long: {width}x{height} pixels, the limit is 1 to {MAX_ASPECT} between the sides"
        )


def _check_scans(data: bytes) -> None:
    """Raise ``ValueError`` for a JPEG with too many scans (ITU T.81, annex B, has the markers)."""
    if data.count(_SCAN) <= MAX_SCANS:  # cheap; they may also occur in a thumbnail, or behind
        return
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None:
        kind, place = found[0], found.end()
        if kind == _END:
            return
        scans += kind == _SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"too many scans: more than {MAX_SCANS} in a progressive JPEG")
        place += int.from_bytes(data[place : place + 2], "big")


_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
"""A marker that is followed by its length; in between, 255 is stuffed with 0."""


def without_long_texts(data: bytes) -> bytes:
    """Return a PNG file without the texts and profiles that are too long; other data as it is.

    Pillow would refuse the whole picture, and only its pixels are wanted.
    Short ones stay: an EXIF orientation may be among them. What is broken is left to the decoder.
    """
    if not data.startswith(PNG_SIGNATURE) or not any(kind in data for kind in PNG_TEXTS):
        return data
    kept, start, place = [], 0, len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            break
        if kind in PNG_TEXTS and _is_long(kind, data[place + 8 : end - 4]):
            kept.append(data[start:place])
            start = end
        place = end
    return b"".join([*kept, data[start:]]) if kept else data


def _is_long(kind: bytes, content: bytes) -> bool:
    """Tell whether a text is too long, at once or when it is decompressed."""
    if len(content) > LONGEST_TEXT:
        return True
    _, _, rest = content.partition(b"\0")  # after the keyword
    if kind == b"iTXt":
        if rest[:1] != b"\1":  # not compressed
            return False
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # after two names of a language
    elif kind == b"tEXt":
        return False
    else:
        rest = rest[1:]  # after the method
    try:
        return len(zlib.decompressobj().decompress(rest, LONGEST_TEXT + 1)) > LONGEST_TEXT
    except zlib.error:
        return False
