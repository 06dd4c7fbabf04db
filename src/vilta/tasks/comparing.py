"""What tasks have in common that compare each pair with all pairs of a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from vilta.model.modeling import WithMatching
from vilta.objectives.contrastive import Similarity, compare, contrastive_loss, positive_pairs
from vilta.tasks.base import Task
from vilta.tasks.global_batch import NEAR, Encoded, Shared, chosen, gathered
from vilta.training.processes import process_count
from vilta.types import Batch


class ComparingTask(Task):
    """A task that answers to ``vilta.types.SharesRows``: its ``forward`` starts at ``shared``."""

    model: WithMatching
    near = NEAR

    def text_is_frozen(self) -> bool:
        """Whether the text encoder learns nothing at this step."""
        return False

    def encode(self, batch: Batch) -> Encoded:
        """Encode images and clean captions."""
        image = self.model.vilta.encode_image(batch.pixel_values)
        with torch.no_grad() if self.text_is_frozen() else nullcontext():
            text = self.model.vilta.encode_text(batch.input_ids, batch.attention_mask)
        return Encoded(
            image_states=image,
            text_states=text,
            attention_mask=batch.attention_mask,
            image_embeds=self.model.embed_image(image),
            text_embeds=self.model.embed_text(text, batch.attention_mask),
            image_ids=batch.image_ids,
            caption_ids=batch.caption_ids,
            masked_words=image.new_full((1,), len(batch.masked_positions), dtype=torch.float32),
        )

    def shared(
        self,
        batch: Batch,
        everyone: Sequence[Tensor] | None,
        first: int,
        *,
        with_states: bool = True,
    ) -> Shared | None:
        """Return all pairs of the step; None where they are the batch's own alone.

        ``with_states`` says whether rows will be made of other pairs' states.
        """
        if everyone is not None:
            return chosen(Encoded(*everyone), first, len(batch))
        if self.training and process_count() > 1:
            return gathered(self.encode(batch), with_states=with_states)
        return None

    def compare(
        self,
        batch: Batch,
        image: Float[Tensor, "B P C"],
        text: Float[Tensor, "B L Ct"],
        shared: Shared | None,
    ) -> Similarity:
        """Compare the own images and captions with those of the whole step."""
        scale = self.model.itc_head.scale()
        if shared:
            own, everyone = shared.own, shared.everyone
            embeds = own.image_embeds, own.text_embeds
            return compare(*embeds, everyone.image_embeds, everyone.text_embeds, scale)
        images = self.model.embed_image(image)
        texts = self.model.embed_text(text, batch.attention_mask)
        return compare(images, texts, images, texts, scale)

    def contrast(self, batch: Batch, similarity: Similarity, shared: Shared | None) -> Tensor:
        """Return the contrastive loss of the own pairs among those of the whole step."""
        ids = shared and shared.ids()
        return contrastive_loss(similarity, positive_pairs(batch.image_ids, batch.caption_ids, ids))
