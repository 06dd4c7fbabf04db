"""All pairs of a step, of every device and micro-batch, as one micro-batch sees them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vilta.model.fusion import Pairs
from vilta.objectives.contrastive import PairIds
from vilta.objectives.matching import InBatchNegatives
from vilta.training.processes import gather_rows, machine

NEAR = 3
"""How many fields of ``Encoded``, the first ones, are of this machine's pairs alone."""


class Encoded(NamedTuple):
    """What pairs encode to: ``B`` of a micro-batch, or all ``G`` of a step.

    Of a step the states are those of the ``N`` pairs of this machine: sending those of 8,192 pairs
    to 64 GPUs would take longer than the step (docs/scaling.md).
    """

    image_states: Float[Tensor, "N P C"]
    text_states: Float[Tensor, "N L Ct"]
    attention_mask: Int[Tensor, "N L"]
    image_embeds: Float[Tensor, "G W"]
    text_embeds: Float[Tensor, "G W"]
    image_ids: Int[Tensor, "G"]
    caption_ids: Int[Tensor, "G"]
    masked_words: Float[Tensor, "_"]
    """How many tokens are masked in each micro-batch."""


class Shared(NamedTuple):
    """All pairs of a step, and which of them are a micro-batch's own."""

    everyone: Encoded
    own: Encoded
    first: int

    def near(self) -> int:
        """Return where the pairs of this machine begin among all."""
        here = len(self.everyone.image_states)
        return self.first // here * here

    def ids(self) -> PairIds:
        """Return the ids of all pairs; only those of this machine can be fused."""
        everyone, start = self.everyone, self.near()
        here = (start, start + len(everyone.image_states))
        return PairIds(everyone.image_ids, everyone.caption_ids, self.first, here)

    def weight_of_words(self, masked: int) -> Tensor:
        """Return what makes a mean over ``masked`` own words a part of the mean over all words."""
        # In a step without a known word every loss of words is 0, and so is its weight.
        return masked / self.everyone.masked_words.mean().clamp(min=1e-9)


def gathered(own: Encoded, *, with_states: bool) -> Shared:
    """Return the pairs of all processes; the gradients of the own ones are exact.

    Without ``with_states`` only what contrast needs is sent; the states are the own ones then.
    """
    near = [gather_rows(t, machine()) for t in own[:NEAR]] if with_states else own[:NEAR]
    first = torch.distributed.get_rank() * len(own.image_ids)
    return Shared(Encoded(*near, *(gather_rows(t) for t in own[NEAR:])), own, first)


def chosen(everyone: Encoded, first: int, size: int) -> Shared:
    """Return all pairs with the ``size`` ones from ``first`` on as the own ones."""
    here = first % len(everyone.image_states)
    starts = [here] * NEAR + [first] * (len(everyone) - NEAR)
    own = (t[start : start + size] for t, start in zip(everyone, starts, strict=True))
    return Shared(everyone, Encoded(*own), first)


def with_partners(
    drawn: InBatchNegatives,
    shared: Shared,
    text: Float[Tensor, "T L Ct"],
    masks: Int[Tensor, "T L"],
    image: Float[Tensor, "B P C"],
) -> tuple[Pairs, Tensor, Tensor, Tensor]:
    """Add the texts and images that are drawn from all pairs to the own ones.

    Returns the rows of ``drawn`` as places among them, the texts, their masks and the images.
    """
    size, everyone = len(image), shared.everyone
    # Texts are exchanged in the first ``size`` rows and images in the last; with one kind of
    # negative per pair these are the same rows.
    texts, images = drawn.text[:size] - shared.near(), drawn.image[-size:] - shared.near()
    own = torch.arange(size, device=image.device)
    places = Pairs(text=own + len(text), image=own + size)
    if len(drawn.text) > size:
        places = Pairs(torch.cat([places.text, own]), torch.cat([own, places.image]))
    return (
        places,
        torch.cat([text, everyone.text_states.index_select(0, texts)]),
        torch.cat([masks, everyone.attention_mask.index_select(0, texts)]),
        torch.cat([image, everyone.image_states.index_select(0, images)]),
    )
