"""Fine-tuned image-text retrieval (Flickr30k, COCO, any pairs): contrast, then matching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vilta.config import DataConfig
from vilta.config.finetune import TaskSettings
from vilta.config.ranges import Count, NotNegative
from vilta.data.collate import PairCollator
from vilta.data.examples import PairItems, read_pairs
from vilta.data.samples import PairDataset
from vilta.evaluation.retrieval import (
    Gallery,
    candidate_pairs,
    encode_gallery,
    encode_images,
    flat_retrieval_metrics,
    match_scores,
)
from vilta.model import ViltaForImageTextRetrieval
from vilta.model.fusion import Pairs
from vilta.objectives.matching import draw_in_batch_negatives, matching_loss
from vilta.tasks.comparing import ComparingTask
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.global_batch import with_partners
from vilta.types import Batch, Losses


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings(TaskSettings):
    """Settings of image-text retrieval."""

    top_k: Count = 32
    """Candidates of the contrastive stage that matching ranks again."""
    full: bool = False
    """Score every pair by matching, as methods without a first stage do."""
    hardness: NotNegative = 1.0
    """How strongly similarity guides the draw of negatives in the batch: 0 uniform, 1 as likely as
    contrast takes them for true (ALBEF)."""
    folds: Count = 1
    """Mean over so many parts of the images (COCO 1k: 5 of its 5,000 test images)."""


class ImageTextRetrieval(ComparingTask, FinetuningTask):
    """Reads pair tables. The losses are ALBEF's (arXiv 2107.07651): contrast and matching."""

    name = "retrieval"
    model: ViltaForImageTextRetrieval
    model_class = ViltaForImageTextRetrieval
    settings_class = RetrievalSettings
    settings: RetrievalSettings
    selection_metric = "mean_recall"
    needs_head = False
    trained_heads = frozenset({"contrastive", "matching"})

    @classmethod
    def read(cls, path: str, images: str, settings: TaskSettings) -> PairItems:
        """Read any source of pairs that `vilta pack` reads."""
        return read_pairs(path, images)

    def dataset(
        self, items: PairItems, data: DataConfig, seed: int, *, train: bool, blind: bool = False
    ) -> PairDataset:
        """Return the pairs; in training a caption is drawn each epoch."""
        if blind:
            raise ValueError("retrieval needs images; drop --data.blind")
        return PairDataset(items.rows, data, seed, train, items.name)

    def collator(self, max_text_tokens: int) -> PairCollator:
        """Return the collator of pairs; nothing is masked."""
        return PairCollator(self.tokenizer, max_text_tokens, None, 0)

    def forward(
        self, batch: Batch, everyone: Sequence[Tensor] | None = None, first: int = 0
    ) -> Losses:
        """Contrast of the step, and matching of true pairs against pairs that look alike.

        ``everyone`` and ``first``: see ``vilta.types.SharesRows``.
        """
        mask, shared = batch.attention_mask, self.shared(batch, everyone, first)
        encoded = shared.own if shared else self.encode(batch)
        image_states, text_states = encoded.image_states, encoded.text_states
        similarity = self.compare(batch, image_states, text_states, shared)  # [B, G] both ways
        itc = self.contrast(batch, similarity, shared)
        wrong = draw_in_batch_negatives(
            similarity,
            batch.image_ids,
            batch.caption_ids,
            hardness=self.settings.hardness,
            everyone=shared and shared.ids(),
        )
        others = Pairs(wrong.text, wrong.image)
        if shared:
            others, text_states, mask, image_states = with_partners(
                wrong, shared, text_states, mask, image_states
            )
        own = torch.arange(len(batch), device=image_states.device)
        pairs = Pairs(torch.cat([own, others.text]), torch.cat([own, others.image]))
        logits = self.model.match(text_states, mask, image_states, pairs)
        true, false = logits.tensor_split([len(batch)])
        itm, parts, counts = matching_loss(
            true, wrong.groups(false, torch.ones(len(batch), device=false.device))
        )
        logged: dict[str, Tensor] = {"itc": itc.detach(), "itm": itm.detach()}
        return Losses(
            total=itc + itm,
            metrics=logged | {f"itm/{k}": v for k, v in parts.items()},
            metric_counts={f"itm/{k}": v for k, v in counts.items()},
        )

    def after_step(self) -> None:
        """Hold the temperature within its bound."""
        self.model.itc_head.clamp_scale()

    @torch.no_grad()
    def predict(self, loader: Iterable[Batch]) -> Float[Tensor, "N P C"]:
        """Return the image states, in the order of the table."""
        return encode_images(self.model, (batch.pixel_values for batch in loader))

    def evaluate(self, predictions: Float[Tensor, "N P C"], items: Any) -> dict[str, float]:
        """Return recall both ways, of the stages that the model has trained.

        With ``folds`` the mean over parts (COCO 1k: five).
        """
        captions = items.rows["captions"]
        gallery = encode_gallery(self.model, self.tokenizer, predictions, captions)
        settings = self.settings
        folds = [self._figures(part) for part in split_gallery(gallery, settings.folds)]
        return {name: sum(f[name] for f in folds) / len(folds) for name in folds[0]}

    def _figures(self, gallery: Gallery) -> dict[str, float]:
        ranking, match = self.model.config.ranking, None
        if ranking != "contrastive":
            every = self.settings.full or ranking == "matching"  # nothing else names candidates
            top_k = gallery.similarity.numel() if every else self.settings.top_k
            match = match_scores(self.model, gallery, candidate_pairs(gallery.similarity, top_k))
        return flat_retrieval_metrics(gallery, match, ranking)


def split_gallery(gallery: Gallery, folds: int) -> list[Gallery]:
    """Cut a gallery into ``folds`` runs of images, each with its own texts.

    Raises ``ValueError`` if there are fewer images than folds.
    """
    count = len(gallery.image_states)
    if not 1 <= folds <= count:
        raise ValueError(f"{count} images cannot be cut into {folds} folds")
    parts = []
    for images in torch.arange(count).tensor_split(folds):
        texts = gallery.relevant[images].any(dim=0).nonzero()[:, 0]
        parts.append(
            Gallery(
                image_states=gallery.image_states[images],
                text_states=gallery.text_states[texts],
                attention_mask=gallery.attention_mask[texts],
                similarity=gallery.similarity[images][:, texts],
                relevant=gallery.relevant[images][:, texts],
            )
        )
    return parts
