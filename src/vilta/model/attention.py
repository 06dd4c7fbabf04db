"""Multi-head attention in whichever form is faster where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vilta.model.dropout import dropout


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed ahead and shared by rows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(
        self, source: Float[Tensor, "N S D"]
    ) -> tuple[Float[Tensor, "N h S d"], Float[Tensor, "N h S d"]]:
        """Project ``source`` to keys and values, split into heads."""
        keys, values = self.key_value(source).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        x: Float[Tensor, "R S D"],
        keys: Float[Tensor, "R h Z d"],
        values: Float[Tensor, "R h Z d"],
        mask: Bool[Tensor, "R 1 1 Z"] | None,
    ) -> Float[Tensor, "R S D"]:
        """Return what the queries ``x`` read; ``mask`` is True where they may look."""
        read = attend(self._split(self.query(x)), keys, values, mask)
        return self.out(read.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


SHARPNESS = 2.0
"""By how much queries and keys that compare start longer than what they compare (our choice)."""


class ComparingAttention(Attention):
    """Attention between two streams of one space, which starts by comparing them.

    Queries and keys are the states themselves, times ``SHARPNESS``, so that each position reads
    what is like it; half of that is added to it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.query = ScaledIdentity(width, SHARPNESS)
        self.key_value = ScaledIdentity(width, SHARPNESS, 1.0)
        self.out = ScaledIdentity(width, 0.5)


class ScaledIdentity(nn.Linear):
    """A layer whose weights start as the identity times each of ``scales``, one below the other."""

    def __init__(self, width: int, *scales: float) -> None:
        self.scales = scales
        super().__init__(width, len(scales) * width)


def attend(
    queries: Float[Tensor, "R h S d"],
    keys: Float[Tensor, "R h Z d"],
    values: Float[Tensor, "R h Z d"],
    mask: Bool[Tensor, "R 1 #S Z"] | None,
    *,
    scale: float | None = None,
    drop: float = 0.0,
) -> Float[Tensor, "R h S d"]:
    """Scaled dot-product attention through whichever form is faster.

    On a CPU with gradients, plain matrix products serve bf16 (several times as fast there as
    torch's fused kernel) and ``drop``, the share of attention weights that is dropped; everywhere
    else the fused kernel. ``scale`` is ``d ** -0.5`` unless it is given.
    """
    plain = queries.device.type == "cpu" and (queries.dtype == torch.bfloat16 or drop > 0)
    if not (plain and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=drop, scale=scale
        )
    weights = attention_weights(queries, keys, mask, scale).to(values.dtype)
    return dropout(weights, drop, training=True) @ values


def attention_weights(
    queries: Float[Tensor, "R h S d"],
    keys: Float[Tensor, "R h Z d"],
    mask: Bool[Tensor, "R 1 #S Z"] | None,
    scale: float | None = None,
) -> Float[Tensor, "R h S Z"]:
    """Return how much of each source position a query reads; the last dimension sums to one."""
    scores = (queries * (scale or queries.shape[-1] ** -0.5)) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


@contextmanager
def recorded_attention(modules: Iterable[Attention]) -> Iterator[list[Float[Tensor, "R h S Z"]]]:
    """Collect the attention weights of ``modules``, in the order in which they run.

    Inside the block they compute their output from these weights, so gradients reach them.
    """
    recorded: list[Tensor] = []

    def record(module: Attention, inputs: tuple[Any, ...], _: Tensor) -> Tensor:
        x, keys, values, mask = inputs
        weights = attention_weights(module._split(module.query(x)), keys, mask)
        recorded.append(weights)
        return module.out((weights.to(values.dtype) @ values).transpose(1, 2).flatten(2))

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def feed_forward(
    width: int, between: int = 0, activation: nn.Module | None = None
) -> nn.Sequential:
    """Two linear layers, ``between`` (0: four times as) wide in between, with GELU by default."""
    between = between or 4 * width
    activation = nn.GELU() if activation is None else activation
    return nn.Sequential(nn.Linear(width, between), activation, nn.Linear(between, width))
