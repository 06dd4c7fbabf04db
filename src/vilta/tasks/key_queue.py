"""Past embeddings that contrast compares with as well: MoCo's queue, as ALBEF uses it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vilta.objectives.contrastive import PairIds
from vilta.training.processes import gather_rows, process_count


class Keys(NamedTuple):
    """Embeddings of pairs by the moving average, and which pairs they are."""

    image_embeds: Float[Tensor, "G W"]
    text_embeds: Float[Tensor, "G W"]
    image_ids: Int[Tensor, "G"]
    caption_ids: Int[Tensor, "G"]

    def ids(self) -> PairIds:
        """Return the ids of the pairs."""
        return PairIds(self.image_ids, self.caption_ids)


class KeyQueue(nn.Module):
    """The last ``size`` keys of all processes, the oldest replaced first (arXiv 1911.05722).

    It begins with random unit vectors that belong to no pair, as in ALBEF.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_ids: Tensor
    caption_ids: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        for name in ("image_embeds", "text_embeds"):
            self.register_buffer(name, F.normalize(torch.randn(size, width), dim=1))
        nobody = -1 - torch.arange(size)  # hashes are positive
        self.register_buffer("image_ids", nobody)
        self.register_buffer("caption_ids", nobody.clone())
        self.register_buffer("place", torch.zeros((), dtype=torch.long))
        self._announced: list[Keys] = []

    def after(self, keys: Keys) -> Keys:
        """Return the keys, followed by those of the queue."""
        held = (self.image_embeds, self.text_embeds, self.image_ids, self.caption_ids)
        return Keys(*(torch.cat(parts) for parts in zip(keys, held, strict=True)))

    def announce(self, keys: Keys) -> None:
        """Take note of a micro-batch's keys, for ``push`` when the step has been taken."""
        self._announced.append(keys)

    @torch.no_grad()
    def push(self) -> None:
        """Put the announced keys of all processes in the place of the oldest.

        Those of a broken step that are not finite are left out: they would break the next ones.
        """
        if not self._announced:
            return
        rows = [torch.cat(parts) for parts in zip(*self._announced, strict=True)]
        self._announced = []
        if process_count() > 1:
            rows = [gather_rows(part) for part in rows]
        size = len(self.image_ids)
        if size == 0:
            return
        rows = [part[-size:] for part in rows]
        at = (self.place + torch.arange(len(rows[0]), device=self.place.device)) % size
        held = (self.image_embeds, self.text_embeds, self.image_ids, self.caption_ids)
        finite = torch.cat(rows[:2], dim=1).isfinite().all(dim=1, keepdim=True)
        for buffer, part in zip(held, rows, strict=True):
            kept = finite.view(-1, *[1] * (part.ndim - 1))
            buffer.index_copy_(0, at, part.to(buffer.dtype).where(kept, buffer[at]))
        self.place.copy_((self.place + len(rows[0])) % size)
