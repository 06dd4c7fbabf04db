"""Image-text contrast (arXiv 2103.00020) in which one image may have several texts in a batch.

The ``B`` own pairs are compared with all ``G`` pairs of the step, on every device and in every
micro-batch; without others ``G`` is ``B``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PairIds(NamedTuple):
    """Which image and which caption the pairs of a step hold."""

    image: Int[Tensor, "G"]
    caption: Int[Tensor, "G"]
    first: int = 0
    """Where the own pairs begin among them."""
    near: tuple[int, int] | None = None
    """From where to where the pairs are whose states are at hand; None: all."""


class Similarity(NamedTuple):
    """Scaled logits of the own pairs against all of a step."""

    to_text: Float[Tensor, "B G"]
    """Own image i, any text j."""
    to_image: Float[Tensor, "B G"]
    """Own text i, any image j."""


def compare(
    images: Float[Tensor, "B W"],
    texts: Float[Tensor, "B W"],
    all_images: Float[Tensor, "G W"],
    all_texts: Float[Tensor, "G W"],
    scale: Float[Tensor, ""],
) -> Similarity:
    """Return the cosine of unit vectors times ``scale``, in float32 whatever the step's format.

    bf16 keeps three digits, and a low temperature multiplies what it loses.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, texts = scale.float() * images.float(), scale.float() * texts.float()
        return Similarity(images @ all_texts.float().T, texts @ all_images.float().T)


def positive_pairs(
    image_ids: Int[Tensor, "B"], caption_ids: Int[Tensor, "B"], everyone: PairIds | None = None
) -> Bool[Tensor, "B G"]:
    """Return whether own pair i and pair j are positives: the same image, or the same caption."""
    images, captions, *_ = everyone or PairIds(image_ids, caption_ids)
    return (image_ids[:, None] == images[None]) | (caption_ids[:, None] == captions[None])


def contrastive_loss(
    similarity: Float[Tensor, "B B"] | Similarity, positive_mask: Bool[Tensor, "B G"]
) -> Float[Tensor, ""]:
    """Cross-entropy both ways over ``similarity[i, j]`` (image i, text j, scaled logits).

    ``positive_mask`` is ``positive_pairs``: a row's target is spread evenly over its positives. The
    mean over the own pairs; the mean of it over all micro-batches is the loss of the whole step.
    """
    if isinstance(similarity, Tensor):
        similarity = Similarity(similarity, similarity.T)
    targets = positive_mask / positive_mask.sum(dim=1, keepdim=True)
    to_text = -(targets * similarity.to_text.float().log_softmax(dim=1)).sum(dim=1)
    to_image = -(targets * similarity.to_image.float().log_softmax(dim=1)).sum(dim=1)
    return (to_text + to_image).mean() / 2


def mixed_contrastive_loss(
    similarity: Similarity,
    positive_mask: Bool[Tensor, "B G"],
    teacher: Similarity,
    alpha: float | Tensor,
) -> Float[Tensor, ""]:
    """Contrast whose targets are mixed with what a teacher finds (ALBEF, arXiv 2107.07651, eq. 6).

    The target of a row is ``(1 - alpha) positives + alpha softmax(teacher)``.
    """
    total = similarity.to_text.new_zeros((), dtype=torch.float32)
    positives = positive_mask / positive_mask.sum(dim=1, keepdim=True)
    for own, theirs in zip(similarity, teacher, strict=True):
        soft = theirs.detach().float().softmax(dim=1)
        targets = (1 - alpha) * positives + alpha * soft
        total = total - (targets * own.float().log_softmax(dim=1)).sum(dim=1).mean()
    return total / 2
