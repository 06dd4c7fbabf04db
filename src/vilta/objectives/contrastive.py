"""Image-text contrast (arXiv 2103.00020) in which one image may have several texts in a batch."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor


def positive_pairs(
    image_ids: Int[Tensor, "B"], caption_ids: Int[Tensor, "B"]
) -> Bool[Tensor, "B B"]:
    """Return whether image i and text j are positives: the same image, or the same caption."""
    return (image_ids[:, None] == image_ids[None]) | (caption_ids[:, None] == caption_ids[None])


def contrastive_loss(
    similarity: Float[Tensor, "B B"], positive_mask: Bool[Tensor, "B B"]
) -> Float[Tensor, ""]:
    """Cross-entropy both ways over ``similarity[i, j]`` (image i, text j, scaled logits).

    ``positive_mask`` is ``positive_pairs``: a row's target is spread evenly over its positives.
    """
    targets = positive_mask / positive_mask.sum(dim=1, keepdim=True)
    to_text = -(targets * similarity.float().log_softmax(dim=1)).sum(dim=1)
    to_image = -(targets * similarity.float().T.log_softmax(dim=1)).sum(dim=1)
    return (to_text + to_image).mean() / 2
