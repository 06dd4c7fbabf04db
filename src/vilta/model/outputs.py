"""What a plain forward pass returns, and which images and texts it may be given together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.utils import ModelOutput

from vilta.model.fusion import Pairs


@dataclass
class ViltaOutput(ModelOutput):
    """What was computed of ``N`` images, ``T`` texts and the ``B`` pairs of them; else None."""

    last_hidden_state: Float[Tensor, "B L D"] | None = None
    """The text stream after fusion."""
    pooled: Float[Tensor, "B S"] | None = None
    match_logits: Float[Tensor, "B 2"] | None = None
    """No match (0) and match (1)."""
    logits_per_image: Float[Tensor, "N T"] | None = None
    image_embeds: Float[Tensor, "N W"] | None = None
    text_embeds: Float[Tensor, "T W"] | None = None
    logits: Float[Tensor, "B A"] | None = None
    image_states: Float[Tensor, "N P Ci"] | None = None
    """The image encoder's own."""
    text_states: Float[Tensor, "T L Ct"] | None = None
    """The text encoder's own."""
    attentions: tuple[Float[Tensor, "B h L L"], ...] | None = None
    """Per fusion layer, how much each token reads of the text."""
    cross_attentions: tuple[Float[Tensor, "B h L P"], ...] | None = None
    """Per fusion layer, how much each token reads of the image."""


def paired(images: int, texts: int, device: torch.device) -> Pairs | None:
    """Return which text meets which image: i meets i (None), or the only one meets them all.

    Raises ``ValueError`` if the numbers fit neither.
    """
    if images == texts:
        return None
    rows = torch.arange(max(images, texts), device=device)
    if images == 1:
        return Pairs(text=rows, image=torch.zeros_like(rows))
    if texts == 1:
        return Pairs(text=torch.zeros_like(rows), image=rows)
    raise ValueError(
        f"{images} images and {texts} texts cannot be paired; give as many texts as images, or one "
        "of either (ViltaForZeroShotImageClassification compares each with each)"
    )
