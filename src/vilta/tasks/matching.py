"""Image-text matching in one fusion call: true rows, in-batch negatives and generated ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vilta.evaluation.synonyms import SynonymTable
from vilta.model.fusion import Pairs
from vilta.objectives.contrastive import Similarity
from vilta.objectives.hard_negatives import SynthesisedNegatives
from vilta.objectives.matching import Negatives, draw_in_batch_negatives, matching_loss
from vilta.tasks.global_batch import Shared, with_partners
from vilta.tasks.teachers import TaughtTask
from vilta.types import Batch, Losses


class MatchingTask(TaughtTask):
    """A task that learns which captions belong to an image, beside what it is taught."""

    synonyms: SynonymTable
    """Of the vocabulary, to count how many negatives are none."""

    def match(
        self,
        batch: Batch,
        image_states: Float[Tensor, "B P C"],
        text_states: Float[Tensor, "T L Ct"],
        similarity: Similarity | None,
        negatives: SynthesisedNegatives | None,
        shared: Shared | None,
    ) -> Losses:
        """Match true, in-batch and rewritten rows in one fusion call.

        ``text_states`` holds the ``B`` clean captions and, with ``negatives``, the ``B`` rewritten.
        """
        size, settings, hardness = len(batch), self.objective, self.hardness()
        masks = batch.attention_mask.repeat(len(text_states) // size, 1)  # [T, L]
        in_batch = draw_in_batch_negatives(
            similarity,
            batch.image_ids,
            batch.caption_ids,
            hardness=hardness,
            both=settings.in_batch_negatives == "both",
            everyone=shared and shared.ids(),
        )
        own = torch.arange(size, device=image_states.device)
        others = Pairs(in_batch.text, in_batch.image)
        if shared:
            others, text_states, masks, image_states = with_partners(
                in_batch, shared, text_states, masks, image_states
            )
        texts, images = [own, others.text], [own, others.image]
        if negatives is not None:
            texts.append(own + size)  # the rewritten captions follow the clean ones
            images.append(own)
        pairs = Pairs(text=torch.cat(texts), image=torch.cat(images))
        logits = self.model.match(text_states, masks, image_states, pairs)  # [B to 4B, 2]
        rows = logits.split([len(index) for index in texts])
        # A pair without a generated negative gives all its weight to in-batch ones, or vice versa.
        has_other = in_batch.valid[:size]
        weight = torch.zeros(size, device=image_states.device)
        if negatives is not None:
            weight = torch.where(has_other, settings.synthesised_share, 1.0) * negatives.valid
        groups = in_batch.groups(rows[1], 1 - weight)
        statistics = {"hardness": torch.as_tensor(hardness).clone()}  # the next step changes it
        counts: dict[str, Tensor] = {}
        if negatives is not None:
            groups["synthesised"] = Negatives(rows[2], negatives.valid, weight)
            share, known = self.synonyms.exchanged(
                batch.input_ids, negatives.input_ids, negatives.changed
            )
            statistics |= negatives.statistics() | {"synonyms": share}
            counts = {
                "negatives/changed_words": negatives.valid.sum(),
                "negatives/synonyms": known,
            }
        loss = matching_loss(rows[0], groups, mean=settings.matching_mean)
        parts = {f"itm/{name}": value for name, value in loss.metrics.items()}
        return Losses(
            total=loss.total,
            metrics=parts | {f"negatives/{name}": value for name, value in statistics.items()},
            metric_counts=counts
            | {f"itm/{name}": count for name, count in loss.metric_counts.items()},
        )

    def hardness(self) -> float | Tensor:
        """Return how hard the in-batch negatives are at this step.

        In evaluation as hard as they get, so that the metrics of one run can be compared.
        """
        return self.ramped_hardness if self.training else self.objective.hardness
