"""The views that training sees: random crops, flips and RandAugment, as uint8 tensors.

Each is a pure function of the image and of a generator's state. Resizing is torch's, whose kernels
for uint8 are four times as fast as Pillow's and differ from them by a grey level or two in one of
200 values; evaluation keeps Pillow's, see ``transforms``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageEnhance
from torch import Tensor

from vilta.data.resizing import evaluation_size
from vilta.data.transforms import tensor_of

CROP_RATIO = 4 / 3
"""Largest width / height, and height / width, of a random crop (Inception, arXiv 1409.4842)."""
CROP_ATTEMPTS = 10
"""Crops drawn before the largest square is taken (our choice)."""
RANDAUGMENT_OPERATIONS = 2
"""Operations on an image, one after the other (2: RandAugment, arXiv 1909.13719; ALBEF)."""
RANDAUGMENT_STRENGTH = 0.7
"""Share of the full range of each operation (magnitude 7 of 10: ALBEF, arXiv 2107.07651)."""

GREY = (128, 128, 128)
"""Colour of what an operation moves into the picture (our choice)."""


def training_tensor(
    pixels: UInt8[np.ndarray, "H W 3"],
    size: int,
    augmentation: str,
    min_crop: float,
    generator: np.random.Generator,
) -> UInt8[Tensor, "3 S S"]:
    """Return the augmented view of a training image, a pure function of the generator's state.

    ``none`` resizes and crops the centre; ``crop`` cuts a random share of the area, from
    ``min_crop`` to 1; ``crop-flip`` also mirrors half of the images; ``crop-randaugment`` applies
    :func:`randaugment` to the crop.
    """
    height, width = pixels.shape[:2]
    if augmentation == "none":
        width, height = evaluation_size(width, height, size)
        view = _resize(pixels, width, height)
        left, top = (width - size) // 2, (height - size) // 2
        return view[:, top : top + size, left : left + size].contiguous()
    left, top, right, bottom = _random_box(width, height, min_crop, generator)
    view = _resize(pixels[top:bottom, left:right], size, size)
    if augmentation == "crop-flip" and generator.random() < 0.5:
        view = view.flip(-1)
    if augmentation == "crop-randaugment":
        crop = Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())
        return tensor_of(randaugment(crop, generator))
    return view.contiguous()


def training_short_side(size: int, augmentation: str, min_crop: float) -> int:
    """Return the short side (pixels) at which decoding loses nothing that a crop would show."""
    if augmentation == "none":
        return 0  # as evaluation sees it
    return math.ceil(size / math.sqrt(min_crop / CROP_RATIO))


def randaugment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply random operations, each in a random direction (RandAugment, arXiv 1909.13719).

    Those that falsify captions are left out: inverting, solarising, posterising, equalising,
    stretching the contrast and changing the saturation change colours; cutting out hides things.
    """
    for number in generator.integers(len(_OPERATIONS), size=RANDAUGMENT_OPERATIONS):
        direction = 1 if generator.random() < 0.5 else -1
        image = _OPERATIONS[number](image, direction * RANDAUGMENT_STRENGTH)
    return image


def _affine(image: Image.Image, xx: float, xy: float, yx: float, yy: float) -> Image.Image:
    """Map around the centre. What is new is grey."""
    x, y = image.width / 2, image.height / 2
    left, top = x - xx * x - xy * y, y - yx * x - yy * y
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (xx, xy, left, yx, yy, top),
        Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )


def _shift(image: Image.Image, dx: float, dy: float) -> Image.Image:
    """Move by shares of the sides, to whole pixels. What is new is grey."""
    moved = Image.new("RGB", image.size, GREY)
    moved.paste(image, (round(-dx * image.width), round(-dy * image.height)))
    return moved


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    angle = math.radians(30 * strength)
    return _affine(image, math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle))


_OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    lambda image, strength: image,
    lambda image, strength: _affine(image, 1.0, 0.3 * strength, 0.0, 1.0),
    lambda image, strength: _affine(image, 1.0, 0.0, 0.3 * strength, 1.0),
    lambda image, strength: _shift(image, 0.15 * strength, 0.0),
    lambda image, strength: _shift(image, 0.0, 0.15 * strength),
    _rotate,
    lambda image, strength: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * strength),
    lambda image, strength: ImageEnhance.Brightness(image).enhance(1 + 0.5 * strength),
)
"""Identity, shears, shifts, rotation, sharpness, brightness; strength is from -1 to 1. Ranges are
RandAugment's, but for shifts and brightness, which are half as far (our choice): things must stay
in the picture, and black and white stay words for colours."""


def _random_box(
    width: int, height: int, min_crop: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, right, bottom of a crop; how many numbers are drawn depends on nothing."""
    areas = generator.uniform(min_crop, 1.0, CROP_ATTEMPTS) * width * height
    ratios = CROP_RATIO ** generator.uniform(-1, 1, CROP_ATTEMPTS)
    where = generator.random(2)
    w = h = float(min(width, height))
    for area, ratio in zip(areas.tolist(), ratios.tolist(), strict=True):
        if area * ratio <= width * width and area <= height * height * ratio:
            w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
            break
    w, h = round(w), round(h)
    left, top = round(where[0] * (width - w)), round(where[1] * (height - h))
    return left, top, left + w, top + h


def _resize(pixels: UInt8[np.ndarray, "H W 3"], width: int, height: int) -> UInt8[Tensor, "3 h w"]:
    # Colours stay last in memory, which is how torch's kernels for uint8 are fast.
    view = torch.from_numpy(pixels).permute(2, 0, 1)
    if pixels.shape[:2] == (height, width):
        return view
    return F.interpolate(view[None], (height, width), mode="bicubic", antialias=True)[0]
