"""Image-text matching: in-batch negatives, and a loss that weighs both answers equally."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vilta.objectives.contrastive import PairIds, Similarity, positive_pairs
from vilta.objectives.sampling import gumbel_like


class Negatives(NamedTuple):
    """Rows that do not match: ``R`` is ``B`` or ``2B``, and row ``r`` belongs to pair ``r % B``."""

    logits: Float[Tensor, "R 2"]
    valid: Bool[Tensor, "R"]
    weight: Float[Tensor, "R"]


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
        self, logits: Float[Tensor, "R 2"], weight: Float[Tensor, "B"]
    ) -> dict[str, Negatives]:
        """Return the groups of ``matching_loss``; a pair's ``weight`` is shared by its rows."""
        rows_of_a_pair = len(logits) // len(weight)
        weights = (weight / rows_of_a_pair).repeat(rows_of_a_pair)
        return {
            "other_text": Negatives(logits, self.valid & self.other_text, weights),
            "other_image": Negatives(logits, self.valid & ~self.other_text, weights),
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
    groups: dict[str, Negatives],
    *,
    mean: Literal["pairs", "rows"] = "pairs",
) -> MatchingLoss:
    """Cross-entropy of match (1) and no match (0).

    ``pairs``: every pair pulls towards "match" as strongly as its negatives together pull towards
    "no match", whatever their number; the loss is the mean over pairs. The weights of a pair's
    negatives add up to 1. A pair without a valid negative weighs nothing. The weights of a pair
    depend on it alone, so that the loss of a large batch is the mean over its equal parts.
    ``rows``: every row weighs the same, as in ALBEF (arXiv 2107.07651).
    """
    size = len(true_logits)
    weights = {name: g.weight * g.valid for name, g in groups.items()}
    own = sum((w.view(-1, size).sum(0) for w in weights.values()), true_logits.new_zeros(size))
    if mean == "rows":
        weights = {name: g.valid.float() for name, g in groups.items()}
        own = torch.ones_like(own)
        count = own.sum() + sum(w.sum() for w in weights.values())
    else:
        count = torch.as_tensor(size)
    ones = torch.ones(size, dtype=torch.bool, device=true_logits.device)
    total = true_logits.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    everything = {"true": Negatives(true_logits, ones, own), **groups}
    for name, (logits, valid, _) in everything.items():
        target = int(name == "true")
        labels = torch.full_like(valid, target, dtype=torch.long)
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        losses = torch.where(valid, losses, 0.0)
        total = total + (weights.get(name, own) * losses).sum() / count
        right = (logits.argmax(dim=1) == target) & valid
        found = valid.sum()
        for part, value in {"loss": losses.detach(), "accuracy": right}.items():
            mean_value = value.sum() / found.clamp(min=1)
            parts[f"{part}_{name}"] = mean_value.where(found > 0, torch.nan)
            counts[f"{part}_{name}"] = found
    return MatchingLoss(total, parts, counts)
