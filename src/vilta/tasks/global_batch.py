"""All pairs of a step, of every device and micro-batch, as one micro-batch sees them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vilta.model.fusion import Pairs
from vilta.objectives.contrastive import PairIds
from vilta.objectives.matching import InBatchNegatives
from vilta.training.processes import gather_rows


class Encoded(NamedTuple):
    """What pairs encode to: ``B`` of a micro-batch, or all ``G`` of a step."""

    image_states: Float[Tensor, "G P C"]
    text_states: Float[Tensor, "G L Ct"]
    image_embeds: Float[Tensor, "G W"]
    text_embeds: Float[Tensor, "G W"]
    attention_mask: Int[Tensor, "G L"]
    image_ids: Int[Tensor, "G"]
    caption_ids: Int[Tensor, "G"]
    masked_words: Float[Tensor, "_"]
    """How many tokens are masked in each micro-batch."""


class Shared(NamedTuple):
    """All pairs of a step, and which of them are a micro-batch's own."""

    everyone: Encoded
    own: Encoded
    first: int

    def ids(self) -> PairIds:
        """Return the ids of all pairs."""
        return PairIds(self.everyone.image_ids, self.everyone.caption_ids, self.first)

    def weight_of_words(self, masked: int) -> Tensor:
        """Return what makes a mean over ``masked`` own words a part of the mean over all words."""
        return masked / self.everyone.masked_words.mean()


def gathered(own: Encoded, *, with_states: bool) -> Shared:
    """Return the pairs of all processes; the gradients of the own ones are exact.

    Without ``with_states`` only what contrast needs is sent; the states are the own ones then.
    """
    rows = [gather_rows(t) for t in own[2:]]
    states = [gather_rows(t) for t in own[:2]] if with_states else own[:2]
    first = torch.distributed.get_rank() * len(own.image_ids)
    return Shared(Encoded(*states, *rows), own, first)


def chosen(everyone: Encoded, first: int, size: int) -> Shared:
    """Return all pairs with the ``size`` ones from ``first`` on as the own ones."""
    return Shared(everyone, Encoded(*(t[first : first + size] for t in everyone)), first)


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
    texts, images = drawn.text[:size], drawn.image[-size:]
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
