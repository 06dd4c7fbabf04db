"""The exact view of evaluation, a square uint8 tensor.

Normalisation is not here: pixels stay uint8 until the model subtracts its mean on the device, which
is a quarter of the bytes to move and twice the images a core prepares.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vilta.decoding import MAX_PIXELS, cover


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
    """Return width and height of an image once its short side is ``size`` pixels.

    Raises ``ValueError`` if that were larger than any image that is read.
    """
    short, long = sorted((width, height))
    resized = int(size * long / short)
    if size * resized > MAX_PIXELS:
        raise ValueError(
            f"too long: {width}x{height} pixels would be {size}x{resized} for the model, the limit "
            f"is {MAX_PIXELS:,}"
        )
    return (size, resized) if width <= height else (resized, size)


def tensor_of(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of an RGB image, colours first."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with its short side at most ``short_side`` pixels (bicubic)."""
    if min(image.size) <= short_side:
        return image
    evaluation_size(*image.size, short_side)
    return image.resize(cover(image.size, short_side), Image.Resampling.BICUBIC)
