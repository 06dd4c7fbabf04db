"""Image bytes to square uint8 tensors: decoded safely, resized, cropped.

Normalisation is not here: pixels stay uint8 until the model subtracts its mean on the device, which
is a quarter of the bytes to move and twice the images a core prepares.
"""

from __future__ import annotations

import io
import math
import struct
import warnings

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is opened at all; Pillow has more decoders than a data set needs (our choice)."""
MIN_SIDE = 8
"""Images with a shorter side are refused: a model sees nothing in them (our choice)."""
MAX_PIXELS = 80_000_000
"""Images with more pixels are refused before one is decoded (our choice; Pillow warns at 89 M)."""
CROP_RATIO = 4 / 3
"""Largest width / height, and height / width, of a random crop (Inception, arXiv 1409.4842)."""
CROP_ATTEMPTS = 10
"""Crops drawn before the largest square is taken (our choice)."""


def decode_image(data: bytes, short_side: int = 0) -> Image.Image:
    """Decode untrusted bytes to an upright RGB image; of an animation, its first frame.

    With ``short_side`` (pixels) a JPEG may be decoded at 1/2, 1/4 or 1/8 scale, never below that
    side, which is much faster; 0 decodes it whole.

    Raises ``ValueError`` with one line for anything that is not a usable image.
    """
    if not data:
        raise ValueError("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, odd ICC profiles: the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                if short_side:
                    image.draft("RGB", _cover(image.size, short_side))
                image.load()
                return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"too large: {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except _BROKEN as error:
        raise ValueError(f"broken image: {' '.join(str(error).split())}") from None


def evaluation_tensor(image: Image.Image, size: int) -> UInt8[Tensor, "3 S S"]:
    """Resize the short side to ``size`` pixels (bicubic) and crop the centre.

    In this order and with these roundings, as the image processors of transformers do it.
    """
    width, height = image.size
    if width <= height:
        resized = (size, int(size * height / width))
    else:
        resized = (int(size * width / height), size)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return _tensor(image.crop((left, top, left + size, top + size)))


def training_tensor(
    image: Image.Image,
    size: int,
    augmentation: str,
    min_crop: float,
    generator: np.random.Generator,
) -> UInt8[Tensor, "3 S S"]:
    """Return the augmented view of a training image, a pure function of the generator's state.

    ``none`` is :func:`evaluation_tensor`; ``crop`` cuts a random share of the area, from
    ``min_crop`` to 1; ``crop-flip`` also mirrors half of the images.
    """
    if augmentation == "none":
        return evaluation_tensor(image, size)
    box = _random_box(*image.size, min_crop, generator)
    # One resize that reads only the box: no copy of the crop, no resize of what is cut away.
    view = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if augmentation == "crop-flip" and generator.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _tensor(view)


def training_short_side(size: int, augmentation: str, min_crop: float) -> int:
    """Return the short side (pixels) at which decoding loses nothing that a crop would show."""
    if augmentation == "none":
        return 0  # to the pixel the same as evaluation
    return math.ceil(size / math.sqrt(min_crop / CROP_RATIO))


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with its short side at most ``short_side`` pixels (bicubic)."""
    if min(image.size) <= short_side:
        return image
    return image.resize(_cover(image.size, short_side), Image.Resampling.BICUBIC)


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


def _random_box(
    width: int, height: int, min_crop: float, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw left, top, right, bottom of a crop; how many numbers are drawn depends on nothing."""
    areas = generator.uniform(min_crop, 1.0, CROP_ATTEMPTS) * width * height
    ratios = CROP_RATIO ** generator.uniform(-1, 1, CROP_ATTEMPTS)
    where = generator.random(2)
    w = h = float(min(width, height))
    for area, ratio in zip(areas.tolist(), ratios.tolist(), strict=True):
        if area * ratio <= width * width and area <= height * height * ratio:
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            break
    left, top = where[0] * (width - w), where[1] * (height - h)
    return left, top, min(left + w, width), min(top + h, height)


def _tensor(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
