"""Dropout whose random numbers cost a tenth on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LEVELS = 256  # values of a byte


class Dropout(nn.Dropout):
    """``nn.Dropout`` through ``dropout``."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements at random while training."""
        return dropout(input, self.p, self.training)


def dropout(x: Shaped[Tensor, "*S"], p: float, training: bool) -> Shaped[Tensor, "*S"]:
    """Zero each element with probability ``p`` and scale the others so that the mean stays.

    On a CPU torch draws 32 random bits for each element, which takes several times as long as the
    products around it. Here an element gets 8 bits, so there ``p`` is rounded to a multiple of
    1/256 (0.1 becomes 0.1016); the scale belongs to the rounded one. Elsewhere, and in a compiled
    step, which fuses dropout with its neighbours, this is ``F.dropout``. The bits come from torch's
    global generator: a seed repeats them, and gradient checkpointing draws them again.
    """
    dropped = round(p * _LEVELS)
    if not training or p == 0:
        return x
    fast = x.device.type == "cpu" and 0 < dropped < _LEVELS and not torch.compiler.is_compiling()
    return _ByteDropout.apply(x, dropped) if fast else F.dropout(x, p, training)


class _ByteDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: int) -> Tensor:
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64)
        # With these bounds all 64 bits are random; without them the sign never is.
        words.random_(-(2**63), None)
        mask = words.view(torch.uint8)[: x.numel()].view(x.shape).ge_(dropped)  # 0 or 1
        ctx.save_for_backward(mask)
        ctx.scale = _LEVELS / (_LEVELS - dropped)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), None


def use_fast_dropout(module: nn.Module) -> None:
    """Put ``Dropout`` in place of every ``nn.Dropout`` within ``module``."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
