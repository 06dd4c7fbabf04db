"""How much of matching comes from looking: true caption or generated negative, by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.evaluation.synonyms import Groups, token_groups
from vilta.model import ViltaForPreTraining
from vilta.objectives.hard_negatives import SynthesisedNegatives
from vilta.types import Batch


@torch.no_grad()
def blindness_metrics(
    model: ViltaForPreTraining,
    loader: Iterable[Any],
    write: Callable[[Batch], SynthesisedNegatives],
    tokenizer: PreTrainedTokenizerBase,
    groups: Groups,
) -> dict[str, float]:
    """Percent of pairs whose true caption scores higher than the negative that ``write`` gives.

    ``right_image``: with the pair's own image; ``wrong_image``: with the next one of the batch, if
    it is another. The wrong image says nothing about the word that was changed, so what
    ``wrong_image`` has above 50 was read off the text alone: the negative betrays itself.
    ``generated`` is the share of captions that got a negative, ``synonyms`` that of the changed
    words that were replaced by a synonym of ``groups``, of the words that have one there. What
    nothing was counted for is left out.
    """
    tables = token_groups(tokenizer, groups)
    hits = dict.fromkeys(["generated", "right_image", "wrong_image", "synonyms"], 0)
    counts = dict.fromkeys(hits, 0)
    for batch in loader:
        batch = batch.to(model.device)
        negatives, valid = (found := write(batch)).input_ids, found.valid
        image = model.vilta.encode_image(batch.pixel_values)
        texts = [
            model.vilta.encode_text(ids, batch.attention_mask)
            for ids in (batch.input_ids, negatives)
        ]
        other = batch.image_ids != batch.image_ids.roll(-1)
        views = {"right_image": (image, valid), "wrong_image": (image.roll(-1, 0), valid & other)}
        for name, (shown, counted) in views.items():
            true, false = (_odds(model, text, batch, shown) for text in texts)
            hits[name] += int((true > false)[counted].sum())
            counts[name] += int(counted.sum())
        hits["generated"] += int(valid.sum())
        counts["generated"] += len(batch)
        changes = batch.input_ids[found.changed].tolist(), negatives[found.changed].tolist()
        for old, new in zip(*changes, strict=True):
            if old in tables:
                counts["synonyms"] += 1
                hits["synonyms"] += new in tables[old][0]
    return {name: 100 * hit / counts[name] for name, hit in hits.items() if counts[name]}


def _odds(
    model: ViltaForPreTraining, text: Tensor, batch: Batch, image: Tensor
) -> Float[Tensor, "B"]:
    """Log-odds that caption i matches encoded image i."""
    logits = model.match(text, batch.attention_mask, image).float()
    return logits[:, 1] - logits[:, 0]
