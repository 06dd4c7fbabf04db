"""Drawing from a softmax without leaving the device."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_like(logits: Tensor) -> Tensor:
    """Return Gumbel noise of the shape of ``logits``, from torch's global generator.

    Adding it and taking the largest draws from the softmax (the Gumbel-max trick).
    """
    return -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-12, 1 - 1e-7)))
