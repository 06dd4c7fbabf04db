"""Image-text contrast (arXiv 2103.00020) in which one image may have several texts in a batch."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def contrastive_loss(
    similarity: Float[Tensor, "B B"], image_ids: Int[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Cross-entropy both ways over ``similarity[i, j]`` (image i, text j, scaled logits).

    All texts of the same image are its matches and share the target evenly.
    """
    same = (image_ids[:, None] == image_ids[None]).float()
    targets = same / same.sum(dim=1, keepdim=True)
    to_text = -(targets * similarity.float().log_softmax(dim=1)).sum(dim=1)
    to_image = -(targets * similarity.float().T.log_softmax(dim=1)).sum(dim=1)
    return (to_text + to_image).mean() / 2
