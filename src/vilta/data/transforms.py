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

from vilta.data.resizing import evaluation_size


def evaluation_tensor(image: Image.Image, size: int) -> UInt8[Tensor, "3 S S"]:
    """Resize the short side to ``size`` pixels (bicubic) and crop the centre.

    In this order and with these roundings, as the image processors of transformers do it.
    """
    width, height = resized = evaluation_size(*image.size, size)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return tensor_of(image.crop((left, top, left + size, top + size)))


def tensor_of(image: Image.Image) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of an RGB image, colours first."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
