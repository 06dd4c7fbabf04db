"""Damage to images at test time: blur, JPEG, brightness, occlusion, each at three strengths.

Kinds as in ImageNet-C (arXiv 1903.12261); the strengths are ours, relative to the side of the
image, so that small pictures are damaged as large ones are.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from vilta.seeds import generator_for

Kind = Literal["blur", "jpeg", "brightness", "occlusion"]
STRENGTHS = {
    "blur": (0.01, 0.02, 0.04),
    "jpeg": (25, 10, 5),
    "brightness": (0.2, 0.4, 0.6),
    "occlusion": (0.1, 0.25, 0.4),
}
"""Radius of a Gaussian blur as a share of the side; JPEG quality; how much darker; share of the
area under a grey square."""
GREY = 127


class Corruption(NamedTuple):
    """A kind of damage and how strong it is, 1 to 3."""

    kind: Kind
    strength: int

    @property
    def name(self) -> str:
        """Return, for example, ``blur-2``."""
        return f"{self.kind}-{self.strength}"

    def apply(self, pixels: UInt8[Tensor, "3 H W"], place: int) -> UInt8[Tensor, "3 H W"]:
        """Return the damaged image; what is random follows from ``place``, its number."""
        value = STRENGTHS[self.kind][self.strength - 1]
        if self.kind == "brightness":
            return (pixels.float() * (1 - value)).round().to(torch.uint8)
        height, width = pixels.shape[1:]
        if self.kind == "occlusion":
            high, wide = round(height * value**0.5), round(width * value**0.5)
            random = generator_for("occlusion", place)
            top = int(random.integers(height - high + 1))
            left = int(random.integers(width - wide + 1))
            covered = pixels.clone()
            covered[:, top : top + high, left : left + wide] = GREY
            return covered
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        if self.kind == "blur":
            image = image.filter(ImageFilter.GaussianBlur(value * min(height, width)))
        else:
            file = io.BytesIO()
            image.save(file, format="jpeg", quality=int(value))
            image = Image.open(file).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


CORRUPTIONS = tuple(Corruption(kind, strength) for kind in get_args(Kind) for strength in (1, 2, 3))


class Corrupted:
    """The batches of an evaluation loader with damaged images; may be iterated again."""

    def __init__(self, batches: Iterable[Any], corruption: Corruption) -> None:
        self.batches, self.corruption = batches, corruption

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches; the same image gets the same damage each time."""
        seen = 0
        for batch in self.batches:
            pixels = [self.corruption.apply(p, seen + i) for i, p in enumerate(batch.pixel_values)]
            seen += len(pixels)
            yield replace(batch, pixel_values=torch.stack(pixels))
