"""Image-text matching: in-batch negatives, and a loss that averages each group separately."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vilta.objectives.contrastive import PairIds, Similarity, positive_pairs
from vilta.objectives.sampling import gumbel_like


class InBatchNegatives(NamedTuple):
    """``R`` rows that pair a text with an image it does not describe.

    ``text`` and ``image`` count through all pairs of the step.
    """

    text: Int[Tensor, "R"]
    image: Int[Tensor, "R"]
    other_text: Bool[Tensor, "R"]
    """True where the text of a true pair was exchanged, False where the image was."""
    valid: Bool[Tensor, "R"]
    """False where the batch has no wrong partner to offer; the row then pairs i with i."""

    def groups(
        self, logits: Float[Tensor, "R 2"], weight: float
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """Return the groups of ``matching_loss``: the two kinds share the weight evenly."""
        return {
            "other_text": (logits, self.valid & self.other_text, weight / 2),
            "other_image": (logits, self.valid & ~self.other_text, weight / 2),
        }


def draw_in_batch_negatives(
    similarity: Float[Tensor, "B B"] | Similarity | None,
    image_ids: Int[Tensor, "B"],
    caption_ids: Int[Tensor, "B"],
    *,
    hardness: float | Tensor = 1.0,
    both: bool = True,
    everyone: PairIds | None = None,
) -> InBatchNegatives:
    """Give each pair another text *and* another image (``R = 2B``, texts first), or one of the two.

    ``similarity[i, j]`` are the logits of image i and text j. A partner is drawn from
    ``softmax(hardness * similarity)``, in log space so that nothing overflows. Hardness 1 draws as
    ALBEF does (arXiv 2107.07651); 0, or a similarity of None, draws uniformly. With ``both=False``
    a coin flip per pair decides which of the two is exchanged (``R = B``). Pairs that share the
    image id or the caption are never drawn, because they are positives. ``everyone`` are the pairs
    of all devices and micro-batches, the columns of ``similarity``; only those ``near`` are drawn.
    """
    size, device = len(image_ids), image_ids.device
    everyone = everyone or PairIds(image_ids, caption_ids)
    allowed = ~positive_pairs(image_ids, caption_ids, everyone)
    if everyone.near is not None:
        place, (start, stop) = torch.arange(allowed.shape[1], device=device), everyone.near
        allowed &= (place >= start) & (place < stop)
    if similarity is None:
        level = torch.zeros(allowed.shape, device=device)
        similarity = Similarity(level, level)
    elif isinstance(similarity, Tensor):
        similarity = Similarity(similarity, similarity.T)
    to_text, to_image = (scores.detach().float() * hardness for scores in similarity)
    own = torch.arange(size, device=device) + everyone.first
    if both:
        scores, allowed, own = torch.cat([to_text, to_image]), allowed.repeat(2, 1), own.repeat(2)
        other_text = torch.arange(2 * size, device=device) < size
    else:
        other_text = torch.rand(size, device=device) < 0.5
        scores = torch.where(other_text[:, None], to_text, to_image)
    partner = (scores + gumbel_like(scores)).masked_fill(~allowed, -torch.inf).argmax(dim=1)
    valid = allowed.any(dim=1)
    partner = torch.where(valid, partner, own)
    return InBatchNegatives(
        text=torch.where(other_text, partner, own),
        image=torch.where(other_text, own, partner),
        other_text=other_text,
        valid=valid,
    )


class MatchingLoss(NamedTuple):
    """The loss, and detached metrics per group."""

    total: Float[Tensor, ""]
    metrics: dict[str, Tensor]
    """``loss_`` and ``accuracy_`` of each group; NaN for a group without a valid row."""
    metric_counts: dict[str, Tensor]
    """How many rows each part is the mean of."""


def matching_loss(
    true_logits: Float[Tensor, "B 2"],
    groups: dict[str, tuple[Float[Tensor, "_ 2"], Bool[Tensor, "_"], float]],
) -> MatchingLoss:
    """Cross-entropy of match (1) and no match (0), each group averaged over its own valid rows.

    ``groups`` maps the name of a kind of negatives to its logits, the mask of its valid rows, and
    its weight. The true pairs have weight 1. A group without a valid row adds 0.
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
