"""Sizes of images; without torch, so that ``vilta pack`` and ``vilta inspect`` start at once."""

from __future__ import annotations

from PIL import Image

from vilta.decoding import MAX_PIXELS, cover


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


def shrink(image: Image.Image, short_side: int) -> Image.Image:
    """Return the image with its short side at most ``short_side`` pixels (bicubic)."""
    if min(image.size) <= short_side:
        return image
    evaluation_size(*image.size, short_side)
    return image.resize(cover(image.size, short_side), Image.Resampling.BICUBIC)
