"""Converts images of any supported type to the pixels that a model reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vilta.data.transforms import evaluation_tensor
from vilta.decoding import bounded_bytes, decode_image, picture_of, upright_rgb

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor"
"""A path, the bytes of an image file, a PIL image, or an array ``[H, W, 3]`` or ``[H, W]``
(uint8, or floats from 0 to 1), or what ``pixels_of`` has made of one: a tensor ``[3, S, S]``."""

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode; Pillow lets them run side by side."""


def as_list(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """Return one image or several as a list; an array ``[N, H, W, 3]`` is ``N`` images."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image | Tensor):
        return [images]
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def pixels_of(images: Sequence[ImageInput], size: int) -> UInt8[Tensor, "N 3 S S"]:
    """Decode, resize the short side to ``size`` pixels and crop the centre, as evaluation does.

    Raises ``ValueError`` in one line that names the image that cannot be used.
    """
    if not images:
        return torch.empty(0, 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(DECODERS) as pool:
        names = [f"image {number}" for number in range(len(images))]
        return torch.stack(list(pool.map(_pixels, images, names, [size] * len(images))))


def open_image(image: ImageInput, short_side: int = 0, name: str = "image") -> Image.Image:
    """Return an image as an upright RGB picture; ``short_side`` allows a faster JPEG decoding.

    Raises ``ValueError`` in one line, which begins with the path, or with ``name``.
    """
    try:
        if isinstance(image, Tensor):
            raise ValueError("a tensor cannot be opened as a picture")
        if isinstance(image, Image.Image):
            return upright_rgb(image)
        if isinstance(image, np.ndarray):
            return picture_of(image)
        if isinstance(image, bytes):
            return decode_image(image, short_side)
        name = str(image)
        return decode_image(bounded_bytes(image), short_side)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _pixels(image: ImageInput, name: str, size: int) -> UInt8[Tensor, "3 S S"]:
    if isinstance(image, Tensor):
        if image.shape != (3, size, size) or image.dtype != torch.uint8:
            raise ValueError(f"{name}: a tensor must be uint8 of shape [3, {size}, {size}]")
        return image
    return evaluation_tensor(open_image(image, name=name), size)
