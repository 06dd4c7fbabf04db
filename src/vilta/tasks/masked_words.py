"""Masked words filled with the right image, with a wrong one, and without any."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from vilta.model import ViltaForPreTraining
from vilta.types import Batch

VIEWS = ("with_image", "wrong_image", "text_only")


@torch.no_grad()
def masked_word_logits(model: ViltaForPreTraining, batch: Batch) -> dict[str, Float[Tensor, "M V"]]:
    """Vocabulary logits at the masked positions, for each of ``VIEWS``.

    The wrong image is that of the next pair in the batch.
    """
    vilta, mask, at = model.vilta, batch.attention_mask, batch.masked_positions
    image = vilta.encode_image(batch.pixel_values)
    text = vilta.encode_text(batch.masked_input_ids, mask)
    right = vilta.fuse(text, mask, image).text.flatten(0, 1)[at]
    wrong = vilta.fuse(text, mask, image.roll(-1, dims=0)).text.flatten(0, 1)[at]
    return {
        "with_image": model.predict_words(right),
        "wrong_image": model.predict_words(wrong),
        "text_only": model.predict_words_from_text(text.flatten(0, 1)[at]),
    }


@torch.no_grad()
def masked_word_figures(
    model: ViltaForPreTraining, loader: Iterable[Batch]
) -> dict[str, dict[str, float]]:
    """Percent of masked words ranked first (``top1``) or among the first five (``top5``)."""
    hits = {view: torch.zeros(2) for view in VIEWS}
    count = 0
    for batch in loader:
        batch = batch.to(model.device)
        words = batch.input_ids.flatten()[batch.masked_positions][:, None]
        count += len(words)
        for view, logits in masked_word_logits(model, batch).items():
            found = logits.topk(min(5, logits.shape[1]), dim=1).indices == words  # [M, 5]
            hits[view] += torch.stack([found[:, 0].sum(), found.sum()]).cpu()
    return {
        view: {
            "top1": 100 * first.item() / max(count, 1),
            "top5": 100 * five.item() / max(count, 1),
        }
        for view, (first, five) in hits.items()
    }
