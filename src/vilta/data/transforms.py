"""Image bytes to pixels, safely; and the exact view of evaluation, a square uint8 tensor.

Normalisation is not here: pixels stay uint8 until the model subtracts its mean on the device, which
is a quarter of the bytes to move and twice the images a core prepares.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened at all; Pillow has more decoders than a data set needs (our choice)."""
MIN_SIDE = 8
"""Images with a shorter side are refused: a model sees nothing in them (our choice)."""
MAX_PIXELS = 80_000_000
"""Images with more pixels are refused before one is decoded (our choice; Pillow warns at 89 M)."""


def decode_image(data: bytes, short_side: int = 0) -> Image.Image:
    """Decode untrusted bytes to an upright RGB image; of an animation, its first frame.

    With ``short_side`` (pixels) a JPEG may be decoded at 1/2, 1/4 or 1/8 scale, never below that
    side, which is much faster; 0 decodes it whole.

    Raises ``ValueError`` with one line for anything that is not a usable image.
    """
    with _opened(data) as image:
        if short_side:
            image.draft("RGB", _cover(image.size, short_side))
        image.load()
        return _rgb(ImageOps.exif_transpose(image))


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


def evaluation_tensor(image: Image.Image, size: int) -> UInt8[Tensor, "3 S S"]:
    """Resize the short side to ``size`` pixels (bicubic) and crop the centre.

    In this order and with these roundings, as the image processors of transformers do it.
    """
    width, height = resized = evaluation_size(*image.size, size)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return tensor_of(image.crop((left, top, left + size, top + size)))


def evaluation_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return width and height of an image once its short side is ``size`` pixels."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def tensor_of(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of an RGB image, colours first."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with its short side at most ``short_side`` pixels (bicubic)."""
    if min(image.size) <= short_side:
        return image
    return image.resize(_cover(image.size, short_side), Image.Resampling.BICUBIC)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image whose size is bearable; whatever goes wrong inside is a ``ValueError``."""
    if not data:
        raise ValueError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, odd ICC profiles: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except _BROKEN as error:
        raise ValueError(f"broken image: {' '.join(str(error).split())}") from None


_BROKEN = (OSError, SyntaxError, struct.error, EOFError, OverflowError, KeyError, IndexError)
"""What Pillow's decoders raise for broken files, besides ``ValueError`` itself."""


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"too small: {width}x{height} pixels, needed are {MIN_SIDE} on each side")
    if width * height > MAX_PIXELS:
        raise ValueError(f"too large: {width}x{height} pixels, the limit is {MAX_PIXELS:,}")


def _cover(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return ``size`` scaled so that the short side is ``short_side``."""
    scale = short_side / min(size)
    return max(short_side, round(size[0] * scale)), max(short_side, round(size[1] * scale))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; transparent pixels become white, 16-bit grey loses its low byte."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # Pillow would clip everything above 255
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray((grey >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        alpha = image.convert("RGBA")
        white = Image.new("RGBA", alpha.size, "white")
        return Image.alpha_composite(white, alpha).convert("RGB")
    return image.convert("RGB")
