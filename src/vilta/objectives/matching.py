"""Image-text matching: in-batch negatives, and a loss whose groups are averaged apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vilta.objectives.contrastive import belong_together


class InBatchNegatives(NamedTuple):
    """For each of ``B`` rows a text and an image that do not belong together."""

    text: Int[Tensor, "B"]
    image: Int[Tensor, "B"]
    valid: Bool[Tensor, "B"]
    """False where the batch holds no wrong partner; the row then pairs i with i."""


def draw_in_batch_negatives(
    similarity: Float[Tensor, "B B"] | None,
    image_ids: Int[Tensor, "B"],
    caption_ids: Int[Tensor, "B"],
) -> InBatchNegatives:
    """Give each pair another text or another image, by a coin.

    ``similarity[i, j]`` compares image i with text j (logits, any size): the more alike, the
    likelier drawn (arXiv 2107.07651), sampled in log space so that nothing overflows. None draws
    uniformly. A pair that shares the image id or the caption is never drawn: it would be true.
    """
    size = len(image_ids)
    allowed = ~belong_together(image_ids, caption_ids)
    if similarity is None:
        similarity = torch.zeros(size, size, device=image_ids.device)
    other_text = torch.rand(size, device=image_ids.device) < 0.5
    scores = torch.where(other_text[:, None], similarity.detach(), similarity.detach().T).float()
    gumbel = -torch.log(-torch.log(torch.rand_like(scores).clamp(1e-12, 1 - 1e-7)))
    partner = (scores + gumbel).masked_fill(~allowed, -torch.inf).argmax(dim=1)
    own = torch.arange(size, device=image_ids.device)
    valid = allowed.any(dim=1)
    partner = torch.where(valid, partner, own)
    return InBatchNegatives(
        text=torch.where(other_text, partner, own),
        image=torch.where(other_text, own, partner),
        valid=valid,
    )


class MatchingLoss(NamedTuple):
    """The loss, and by group what it is made of; detached but for the total."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]
    """``loss_`` and ``accuracy_`` of each group; NaN where no row of it was valid."""
    counts: dict[str, Tensor]
    """How many rows each part is the mean of."""


def matching_loss(
    true_logits: Float[Tensor, "B 2"],
    groups: dict[str, tuple[Float[Tensor, "_ 2"], Bool[Tensor, "_"], float]],
) -> MatchingLoss:
    """Cross-entropy of match (1) and no match (0), each group averaged over its own valid rows.

    ``groups`` maps the name of a kind of negatives to its logits, which rows count, and the
    group's weight. The true pairs weigh 1. A group without a valid row adds 0.
    """
    ones = torch.ones(len(true_logits), dtype=torch.bool, device=true_logits.device)
    total = true_logits.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    everything = {"true": (true_logits, ones, 1.0), **groups}
    for name, (logits, valid, weight) in everything.items():
        target = int(name == "true")
        labels = torch.full_like(valid, target, dtype=torch.long)
        count = valid.sum().clamp(min=1)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        loss = torch.where(valid, losses, 0.0).sum() / count
        right = (logits.argmax(dim=1) == target) & valid
        for part, value in {"loss": loss.detach(), "accuracy": right.sum() / count}.items():
            parts[f"{part}_{name}"] = value.where(valid.any(), torch.nan)
            counts[f"{part}_{name}"] = valid.sum()
        total = total + weight * loss
    return MatchingLoss(total, parts, counts)
