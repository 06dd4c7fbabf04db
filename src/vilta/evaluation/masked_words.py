"""Masked words filled with the right image, with a wrong one, and without any."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vilta.model import ViltaForPreTraining
from vilta.types import Batch

VIEWS = ("with_image", "wrong_image", "text_only")


@torch.no_grad()
def masked_word_logits(model: ViltaForPreTraining, batch: Batch) -> dict[str, Float[Tensor, "M V"]]:
    """Vocabulary logits at the masked positions, for each of ``VIEWS``.

    The wrong image is that of the next pair in the batch, if ``has_wrong_image``.
    """
    images = model.vilta.encode_image(batch.pixel_values)
    return word_logits(
        model,
        batch.masked_input_ids,
        batch.attention_mask,
        batch.masked_positions,
        images,
        images.roll(-1, dims=0),
    )


@torch.no_grad()
def word_logits(
    model: ViltaForPreTraining,
    input_ids: Int[Tensor, "B L"],
    attention_mask: Int[Tensor, "B L"],
    at: Int[Tensor, "M"],
    images: Float[Tensor, "B P C"],
    wrong_images: Float[Tensor, "B P C"],
) -> dict[str, Float[Tensor, "M V"]]:
    """Vocabulary logits at ``at``, a flat index into ``B * L``, for each of ``VIEWS``.

    Both kinds of images are encoded, one for each text.
    """
    vilta, mask = model.vilta, attention_mask
    text_states = vilta.encode_text(input_ids, mask)
    right = vilta.fuse(text_states, mask, images).text.flatten(0, 1)[at]
    wrong = vilta.fuse(text_states, mask, wrong_images).text.flatten(0, 1)[at]
    alone = vilta.read_alone(text_states, mask, at)
    text_states = text_states.flatten(0, 1)[at]
    return {
        "with_image": model.predict_words(right, text_states),
        "wrong_image": model.predict_words(wrong, text_states),
        "text_only": model.predict_words_from_text(alone),
    }


def has_wrong_image(batch: Batch) -> Bool[Tensor, "M"]:
    """Whether the next pair of the batch shows another image, for each masked position."""
    other = batch.image_ids != batch.image_ids.roll(-1)
    return other[batch.masked_positions // batch.input_ids.shape[1]]


@torch.no_grad()
def masked_word_metrics(
    model: ViltaForPreTraining, loader: Iterable[Batch]
) -> dict[str, dict[str, float]]:
    """Percent of masked words ranked first (``top1``) or among the first five (``top5``).

    ``wrong_image`` counts the words that have one. A view in which no word counts is left out.
    """
    hits = {view: torch.zeros(2) for view in VIEWS}
    counts = dict.fromkeys(VIEWS, 0)
    for batch in loader:
        batch = batch.to(model.device)
        words = batch.input_ids.flatten()[batch.masked_positions][:, None]
        every = torch.ones_like(words[:, 0], dtype=torch.bool)
        for view, logits in masked_word_logits(model, batch).items():
            counted = has_wrong_image(batch) if view == "wrong_image" else every
            found = logits.topk(min(5, logits.shape[1]), dim=1).indices == words  # [M, 5]
            found = found[counted]
            counts[view] += len(found)
            hits[view] += torch.stack([found[:, 0].sum(), found.sum()]).cpu()
    return {
        view: {
            "top1": 100 * first.item() / counts[view],
            "top5": 100 * five.item() / counts[view],
        }
        for view, (first, five) in hits.items()
        if counts[view]
    }
