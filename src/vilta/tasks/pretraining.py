"""ViLTA pre-training: one step of masked words, matching with generated negatives, and contrast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.config import ObjectiveConfig
from vilta.data.collate import PairCollator
from vilta.evaluation.retrieval import trained_ranking
from vilta.evaluation.synonyms import SynonymTable
from vilta.model import ViltaForPreTraining, ViltaProcessor
from vilta.objectives.distillation import distillation_loss, without_teacher
from vilta.objectives.hard_negatives import (
    SynthesisedNegatives,
    WordFilter,
    synthesise_negatives,
)
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import VocabularyTables, read_vocabulary
from vilta.tasks.matching import MatchingTask
from vilta.types import Batch, Losses


class ExpectedWords(NamedTuple):
    """Vocabulary logits at the ``M`` masked positions; None where no objective reads them."""

    logits: Float[Tensor, "M V"] | None
    text_logits: Float[Tensor, "M V"] | None


class PretrainingTask(MatchingTask):
    """The method of arXiv 2308.16689; ``forward`` follows docs/method.md step by step.

    ``teacher`` is the frozen language model: needed for ``soft_labels: language_model`` and for
    ``negatives: soft_label``. It shares the student's vocabulary (``require_same_words``).
    """

    def __init__(
        self,
        model: ViltaForPreTraining,
        tokenizer: PreTrainedTokenizerBase,
        objective: ObjectiveConfig,
        teacher: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        size = model.get_input_embeddings().weight.shape[0]
        self.words = VocabularyTables(read_vocabulary(tokenizer, size))
        self.synonyms = SynonymTable(tokenizer, size)
        self.take_teachers(teacher)
        self.count_steps()

    def forward(
        self, batch: Batch, everyone: Sequence[Tensor] | None = None, first: int = 0
    ) -> Losses:
        """One step. The symbols in the shape comments are those of ``vilta.types``.

        ``everyone`` and ``first``: see ``vilta.types.SharesRows``.
        """
        vilta, objective = self.model.vilta, self.objective
        mask = batch.attention_mask
        if self.training and not self.mlm_begun:
            return self.contrast_only(batch, everyone, first)
        matching = (not self.training or self.itm_begun) and objective.itm_weight > 0

        # Every row of every pass shares one encoding of its image.
        shared = self.shared(batch, everyone, first, with_states=matching)
        image_states = shared.own.image_states if shared else vilta.encode_image(batch.pixel_values)

        # Masked words: what text and image expect, and what the text alone expects.
        generating = matching and objective.negatives != "off"
        words = self.expected_words(batch, image_states, generating)  # [M, V] each
        momentum = self.momentum(batch)
        soft = self.soft_labels(batch, momentum) if words.logits is not None else None  # [M, V]
        losses = self.word_losses(batch, words, soft)
        if shared:  # the mean over all words of the step
            weight = shared.weight_of_words(len(batch.masked_positions))
            losses = {name: weight * loss for name, loss in losses.items()}

        # The same logits generate the negatives: likely to the text, unlikely to the image.
        negatives, captions = None, [] if shared else [batch.input_ids]
        if generating:
            negatives = self.generate_negatives(batch, words, soft, objective.negatives)
            captions.append(negatives.input_ids)
        states = [shared.own.text_states] if shared else []
        if captions:
            states.append(vilta.encode_text(torch.cat(captions), mask.repeat(len(captions), 1)))
        text_states = torch.cat(states)  # [B or 2B, L, C]

        # Contrast compares true captions with images, and guides the in-batch negatives.
        similarity = None  # [B, G] both ways
        if objective.itc_weight > 0:
            own_text = text_states[: len(batch)]
            if momentum is not None and momentum.keys is not None:
                similarity, itc = self.contrast_with_queue(
                    batch, image_states, own_text, momentum.keys, shared
                )
            else:
                similarity = self.compare(batch, image_states, own_text, shared)
                itc = self.contrast(batch, similarity, shared)
            losses["itc"] = itc

        metrics: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        if matching:
            itm = self.match(batch, image_states, text_states, similarity, negatives, shared)
            losses["itm"], metrics, counts = itm.total, itm.metrics, itm.metric_counts
        weights = {name: getattr(objective, f"{name}_weight") for name in losses}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return Losses(
            total=total,
            metrics={name: value.detach() for name, value in (losses | metrics).items()},
            metric_counts=counts,
        )

    def contrast_only(self, batch: Batch, everyone: Sequence[Tensor] | None, first: int) -> Losses:
        """Compare images with captions and nothing else: the steps before ``mlm_start``."""
        shared = self.shared(batch, everyone, first, with_states=False)
        own = shared.own if shared else self.encode(batch)
        similarity = self.compare(batch, own.image_states, own.text_states, shared)
        itc = self.contrast(batch, similarity, shared)
        return Losses(total=self.objective.itc_weight * itc, metrics={"itc": itc.detach()})

    def text_is_frozen(self) -> bool:
        """Whether the text encoder rests: before ``mlm_start``.

        With contrast as its only loss it would forget the language model that generates negatives.
        """
        return self.training and not self.mlm_begun

    def expected_words(
        self, batch: Batch, image_states: Float[Tensor, "B P C"], generating: bool = True
    ) -> ExpectedWords:
        """What text and image, and what the text alone, expect at the masked positions.

        What no objective reads is not computed; ``generating`` says whether negatives follow.
        """
        vilta, mask, at = self.model.vilta, batch.attention_mask, batch.masked_positions
        settings = self.objective
        fusing = settings.mlm_weight > 0 or generating
        current = generating and settings.negative_generator == "current"
        logits = text_logits = None
        if fusing or current or settings.text_mlm_weight > 0:
            masked = vilta.encode_text(batch.masked_input_ids, mask)  # [B, L, C]
            if fusing:
                fused = vilta.fuse_at(at, masked, mask, image_states)  # [M, D]
                logits = self.model.predict_words(fused, masked.flatten(0, 1)[at])
            if current or settings.text_mlm_weight > 0:
                alone = vilta.read_alone(masked, mask, at)  # [M, C]
                text_logits = self.model.predict_words_from_text(alone)
        return ExpectedWords(logits=logits, text_logits=text_logits)

    def word_losses(
        self, batch: Batch, words: ExpectedWords, soft: Float[Tensor, "M V"] | None
    ) -> dict[str, Tensor]:
        """Return the losses of masked words that have a weight."""
        settings = self.objective
        original = batch.input_ids.flatten()[batch.masked_positions]  # [M]
        losses = {}
        if words.logits is not None and settings.mlm_weight > 0:
            losses["mlm"] = distillation_loss(
                words.logits,
                original,
                soft,
                alpha=self.ramped_alpha,
                temperature=settings.temperature,
                top_k=settings.top_k,
            )
        if words.text_logits is not None and settings.text_mlm_weight > 0:
            losses["text_mlm"] = distillation_loss(words.text_logits, original)
        return losses

    def generator_logits(self, batch: Batch, words: ExpectedWords) -> Float[Tensor, "M V"]:
        """Return the text's expectations that negatives are sampled from."""
        if self.objective.negative_generator == "frozen" or words.text_logits is None:
            return self.teacher_logits(batch, batch.masked_input_ids)
        return words.text_logits

    @torch.no_grad()
    def generate_negatives(
        self,
        batch: Batch,
        words: ExpectedWords,
        soft: Float[Tensor, "M V"] | None,
        filter_name: str,
    ) -> SynthesisedNegatives:
        """Rewrite captions from what the text alone expects; see ``ObjectiveConfig.negatives``."""
        settings = self.objective
        filters = []
        if filter_name == "grounded":
            assert words.logits is not None
            own = without_teacher(
                words.logits,
                soft,
                alpha=self.ramped_alpha,
                temperature=settings.temperature,
                top_k=settings.top_k,
            )
            filters.append(WordFilter(own, settings.filter_ratio))
        teacher_ratio = {
            "soft_label": settings.filter_ratio,
            "grounded": settings.teacher_filter_ratio,
        }.get(filter_name, 0.0)
        # A run without negatives (METER) has no teacher when an evaluation generates them.
        asked = self.teacher is not None or filter_name == "soft_label"
        if teacher_ratio > 0 and asked:
            known = soft is not None and settings.soft_labels == "language_model"
            read = known and settings.teacher_view == "clean"
            clean = soft if read else self.teacher_logits(batch, batch.input_ids)
            filters.append(WordFilter(clean, teacher_ratio))
        return synthesise_negatives(
            batch.input_ids,
            batch.word_ids,
            batch.masked_positions,
            self.generator_logits(batch, words),
            self.words.tables(),
            filters=filters,
            candidates=settings.candidates,
            min_p=settings.min_p,
            temperature=settings.negative_temperature,
            max_changes=settings.max_changes,
        )

    def after_step(self) -> None:
        """Count the step, hold the temperature, let the moving average follow (ALBEF)."""
        self.begin(self.steps_taken + 1)
        self.model.itc_head.clamp_scale()
        self.follow()

    def collator(self, max_text_tokens: int, seed: int) -> PairCollator:
        """Return what tokenises and masks pairs; ``seed`` decides which words are masked."""
        objective = self.objective
        mask = partial(
            mask_words,
            vocabulary=self.words.tables(),
            rate=objective.mask_rate,
            content_weight=objective.content_weight,
            scheme=objective.mask_scheme,
        )
        return PairCollator(self.tokenizer, max_text_tokens, mask, seed)

    def save_pretrained(self, folder: str) -> None:
        """Write the model and its processor, to be loaded by ``from_pretrained``."""
        ranking = trained_ranking(self.objective)
        if ranking == "combined" and 0 < self.objective.itm_start >= self.steps_taken:
            ranking = "contrastive"  # matching has still to begin
        self.model.config.ranking = ranking
        self.model.save_pretrained(folder)
        ViltaProcessor.from_config(self.model.config, self.tokenizer).save_pretrained(folder)
