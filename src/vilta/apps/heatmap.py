"""Heat maps: the image regions that a word's contribution to the match comes from.

Gradient times attention of the cross-attention, as ALBEF visualises it (arXiv 2107.07651, after
Grad-CAM): for the log-odds of a match, ``relu(d log-odds / d A) * A`` of the attention ``A`` from
a word's tokens to the image tokens, averaged over heads and layers. The contribution of a word is
the drop of the log-odds when it is masked.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vilta.apps.words import Word, find_words, masked_rows
from vilta.model.fusion import Layer
from vilta.model.modeling import WithMatching
from vilta.muting import muted

COLUMNS = 5
"""Panels in a row of the picture."""
TITLE_WIDTH, TITLE_LINES = 125, 3
"""Letters in a line above them, and lines; the rest is left out."""


@dataclass(frozen=True, kw_only=True)
class HeatMaps:
    """One map for each word of a caption."""

    words: tuple[str, ...]
    contribution: tuple[float, ...]
    """Drop of the log-odds of a match when the word is masked; negative: the word lowers them."""
    maps: Float[np.ndarray, "W h w"]
    """Non-negative; comparable within a caption."""
    log_odds: float

    def scaled(self) -> Float[np.ndarray, "W h w"]:
        """Return the maps scaled for display: the largest value of each word is 1."""
        return self.maps / np.maximum(self.maps.max(axis=(1, 2), keepdims=True), 1e-12)


@torch.inference_mode(False)  # else `enable_grad` below would have no effect
def heat_maps(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    pixels: UInt8[Tensor, "1 3 S S"],
    caption: str,
) -> HeatMaps:
    """Return the heat map and the contribution of each word of ``caption``.

    Raises ``ValueError`` if the caption has no words.
    """
    tokens, words = find_words(tokenizer, caption, model.config.max_text_tokens)
    ids, mask = tokens.to(model.device), torch.ones_like(tokens, device=model.device)
    with torch.no_grad():
        image_states = model.vilta.encode_image(pixels)
        text_states = model.vilta.encode_text(ids, mask)
    with torch.enable_grad(), _watched(model) as seen:
        # Gradients start here; those of the encoders are not needed.
        fused = model.vilta.fuse(text_states.requires_grad_(), mask, image_states.requires_grad_())
        logits = model.classify_match(model.vilta.pool_fused(fused, mask.bool()))[0]
        log_odds = logits[1] - logits[0]
        log_odds.backward()
    model.zero_grad(set_to_none=True)
    attention = torch.stack([_weighted(*each) for each in seen]).mean(dim=0)  # [L, P]
    side = math.isqrt(attention.shape[1])
    grid = attention[:, attention.shape[1] - side * side :]  # a class token and the like come first
    maps = torch.stack([grid[list(word.tokens)].sum(dim=0).view(side, side) for word in words])
    return HeatMaps(
        words=tuple(word.text for word in words),
        contribution=tuple(_contributions(model, tokenizer, image_states, tokens, words)),
        maps=maps.cpu().numpy(),
        log_odds=log_odds.item(),
    )


def draw_heat_maps(
    picture: Image.Image, found: HeatMaps, title: str, shown: Sequence[int] | None = None
) -> bytes:
    """Draw the picture and, for each word, its heat map on the picture; PNG.

    ``picture`` is cut to the square that the model sees. ``shown`` picks words (default: all).
    """
    from matplotlib.figure import Figure  # here: its import costs more than a match

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((384, 384))
    panels = list(range(len(found.words))) if shown is None else list(shown)
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 2.45 * rows + 0.35), layout="constrained")
    lines = textwrap.wrap(title, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" ...")
    figure.suptitle("\n".join(lines), x=0.005, ha="left", fontsize=10, parse_math=False)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    maps = found.scaled().astype(np.float32)
    for axes in grid:
        axes.set_axis_off()
    grid[0].imshow(square)
    grid[0].set_title("what the model sees", fontsize=9)
    for axes, index in zip(grid[1:], panels, strict=False):
        heat = Image.fromarray(maps[index])
        smooth = np.asarray(heat.resize(square.size, Image.Resampling.BICUBIC)).clip(0, 1)
        axes.imshow(square.convert("L"), cmap="gray", vmin=-120, vmax=300)
        axes.imshow(smooth, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.6 * smooth)
        label = f"{found.words[index]}  {found.contribution[index]:+.1f}"
        axes.set_title(label, fontsize=9, parse_math=False)
    file = io.BytesIO()
    with muted:  # letters that the font lacks are drawn as boxes
        figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


@contextmanager
def _watched(model: WithMatching) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Collect from every cross-attention over the image ``A``, the values, and ``A @ values``.

    Fused kernels do not return ``A``, so it is computed again. Its gradient follows from that of
    ``A @ values``, which is kept.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    hooks = []

    def before_cross(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, keys, values, _ = inputs
        queries = module._split(module.query(x)).detach()
        scores = queries @ keys.detach().transpose(-1, -2) * queries.shape[-1] ** -0.5
        seen.append((scores.softmax(dim=-1), values.detach(), x))

    def before_out(module: nn.Module, inputs: tuple[Tensor]) -> None:
        inputs[0].retain_grad()
        attention, values, _ = seen[-1]
        seen[-1] = (attention, values, inputs[0])

    for layer in model.vilta.fusion.text_layers:
        assert isinstance(layer, Layer)
        hooks.append(layer.cross.register_forward_pre_hook(before_cross))
        hooks.append(layer.cross.out.register_forward_pre_hook(before_out))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _weighted(
    attention: Float[Tensor, "1 h S P"], values: Float[Tensor, "1 h P d"], read: Tensor
) -> Float[Tensor, "L P"]:
    """Return ``relu(gradient) * attention``, the mean over heads; ``read`` is ``A @ values``."""
    gradient = read.grad
    if gradient is None:  # the match does not depend on this layer
        return torch.zeros_like(attention[0].mean(dim=0))
    heads = gradient.unflatten(-1, (attention.shape[1], -1)).transpose(1, 2)  # [1, h, S, d]
    of_attention = heads @ values.transpose(-1, -2)
    return (of_attention.relu() * attention)[0].mean(dim=0)


@torch.no_grad()
def _contributions(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "1 P C"],
    tokens: Tensor,
    words: Sequence[Word],
) -> list[float]:
    """Return the drop of the log-odds when each word is masked in turn."""
    rows = torch.cat([tokens, masked_rows(tokenizer, tokens, words)]).to(model.device)
    mask = torch.ones_like(rows)
    text_states = model.vilta.encode_text(rows, mask)
    logits = model.match(text_states, mask, image_states.detach().expand(len(rows), -1, -1)).float()
    odds = logits[:, 1] - logits[:, 0]
    return (odds[0] - odds[1:]).tolist()
