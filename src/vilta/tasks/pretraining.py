"""ViLTA pre-training: one step of masked words, matching with written negatives, and contrast."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.config import ObjectiveConfig
from vilta.data.collate import PairCollator
from vilta.evaluation.retrieval import trained_stages
from vilta.model import ViltaForPreTraining, ViltaProcessor
from vilta.model.encoder_attention import speed_up
from vilta.model.encoders import language_model_logits, text_states
from vilta.model.fusion import Pairs
from vilta.objectives.contrastive import Similarity
from vilta.objectives.distillation import distillation_loss, ramped, without_teacher
from vilta.objectives.hard_negatives import SynthesisedNegatives, synthesise_negatives
from vilta.objectives.masking import mask_words
from vilta.objectives.matching import draw_in_batch_negatives, matching_loss
from vilta.objectives.vocabulary import VocabularyTables, read_vocabulary
from vilta.tasks.comparing import ComparingTask
from vilta.tasks.global_batch import Shared, with_partners
from vilta.types import Batch, Losses


class ExpectedWords(NamedTuple):
    """Vocabulary logits at the ``M`` masked positions."""

    logits: Float[Tensor, "M V"]
    text_logits: Float[Tensor, "M V"]


class PretrainingTask(ComparingTask):
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
        needs_teacher = objective.soft_labels == "language_model" or (
            objective.negatives == "soft_label"
        )
        if needs_teacher and teacher is None:
            raise ValueError("these objectives learn from a frozen language model; give a teacher")
        self.model, self.tokenizer, self.objective = model, tokenizer, objective
        size = model.get_input_embeddings().weight.shape[0]
        self.words = VocabularyTables(read_vocabulary(tokenizer, size))
        self.teacher = None if teacher is None or not needs_teacher else _frozen(speed_up(teacher))
        self.momentum_model = (
            _frozen(copy.deepcopy(model)) if objective.soft_labels == "momentum" else None
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._begin(0)
        self.register_load_state_dict_post_hook(lambda task, _: task._begin(int(task.step)))

    def _begin(self, steps: int) -> None:
        """Begin the objectives that are due after so many steps.

        ``step`` is on the device, where ``forward`` may not look without waiting for it.
        """
        self._steps_taken = steps
        self.mlm_begun = steps >= self.objective.mlm_start
        self.itm_begun = steps >= self.objective.itm_start

    def train(self, mode: bool = True) -> PretrainingTask:
        """Switch the student's mode; teachers always stay in evaluation mode."""
        super().train(mode)
        for frozen in (self.teacher, self.momentum_model):
            if frozen is not None:
                frozen.eval()
        return self

    def forward(
        self, batch: Batch, everyone: Sequence[Tensor] | None = None, first: int = 0
    ) -> Losses:
        """One step. The symbols in the shape comments are those of ``vilta.types``.

        ``everyone`` and ``first``: see ``vilta.types.SharesRows``.
        """
        vilta, objective = self.model.vilta, self.objective
        mask, at = batch.attention_mask, batch.masked_positions
        if self.training and not self.mlm_begun:
            return self.contrast_only(batch, everyone, first)
        matching = not self.training or self.itm_begun

        # Every row of every pass shares one encoding of its image.
        shared = self.shared(batch, everyone, first, with_states=matching)
        image = shared.own.image_states if shared else vilta.encode_image(batch.pixel_values)

        # Masked words: what text and image expect, and what the text alone expects.
        logits, text_logits = self.expected_words(batch, image)  # [M, V] each
        original = batch.input_ids.flatten()[at]  # [M]
        soft = self.soft_labels(batch)  # [M, V]
        mlm = distillation_loss(
            logits,
            original,
            soft,
            alpha=self.alpha(),
            temperature=objective.temperature,
            top_k=objective.top_k,
        )
        text_mlm = distillation_loss(text_logits, original)
        if shared:  # the mean over all words of the step
            weight = shared.weight_of_words(len(at))
            mlm, text_mlm = weight * mlm, weight * text_mlm

        # The same logits write the negatives: likely to the text, unlikely to the image.
        negatives, captions = None, [] if shared else [batch.input_ids]
        if matching and objective.negatives != "off":
            negatives = self.write_negatives(batch, text_logits, logits, soft, objective.negatives)
            captions.append(negatives.input_ids)
        states = [shared.own.text_states] if shared else []
        if captions:
            states.append(vilta.encode_text(torch.cat(captions), mask.repeat(len(captions), 1)))
        text = torch.cat(states)  # [B or 2B, L, C]

        # Contrast compares true captions with images, and guides the in-batch negatives.
        similarity = self.compare(batch, image, text[: len(batch)], shared)  # [B, G] both ways
        itc = self.contrast(batch, similarity, shared)

        total = (
            objective.mlm_weight * mlm
            + objective.text_mlm_weight * text_mlm
            + objective.itc_weight * itc
        )
        metrics, counts = {"mlm": mlm, "text_mlm": text_mlm, "itc": itc}, {}
        if matching:
            itm = self.match(batch, image, text, similarity, negatives, shared)
            total = total + objective.itm_weight * itm.total
            metrics |= {"itm": itm.total, **itm.metrics}
            counts = itm.metric_counts
        return Losses(
            total=total, metrics={k: v.detach() for k, v in metrics.items()}, metric_counts=counts
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

        With contrast as its only loss it would forget the language model that writes the negatives.
        """
        return self.training and not self.mlm_begun

    def match(
        self,
        batch: Batch,
        image: Float[Tensor, "B P C"],
        text: Float[Tensor, "T L Ct"],
        similarity: Similarity,
        negatives: SynthesisedNegatives | None,
        shared: Shared | None,
    ) -> Losses:
        """Match true, in-batch and written rows in one fusion call.

        ``text`` holds the ``B`` clean captions and, with ``negatives``, the ``B`` written ones.
        """
        size, settings, hardness = len(batch), self.objective, self.hardness()
        masks = batch.attention_mask.repeat(len(text) // size, 1)
        in_batch = draw_in_batch_negatives(
            similarity if settings.itc_weight > 0 else None,
            batch.image_ids,
            batch.caption_ids,
            hardness=hardness,
            both=settings.in_batch_negatives == "both",
            everyone=shared and shared.ids(),
        )
        own = torch.arange(size, device=image.device)
        others = Pairs(in_batch.text, in_batch.image)
        if shared:
            others, text, masks, image = with_partners(in_batch, shared, text, masks, image)
        texts, images = [own, others.text], [own, others.image]
        if negatives is not None:
            texts.append(own + size)
            images.append(own)
        pairs = Pairs(text=torch.cat(texts), image=torch.cat(images))
        rows = self.model.match(text, masks, image, pairs).split([len(t) for t in texts])  # [_, 2]
        share = 0.0 if negatives is None else settings.synthesised_share
        groups = in_batch.groups(rows[1], 1 - share)
        statistics = {"hardness": torch.as_tensor(hardness)}
        counts: dict[str, Tensor] = {}
        if negatives is not None:
            groups["synthesised"] = (rows[2], negatives.valid, share)
            statistics |= negatives.statistics()
            counts = {"negatives/changed_words": negatives.valid.sum()}
        loss = matching_loss(rows[0], groups)
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
        settings = self.objective
        if not self.training:
            return settings.hardness
        since = self.step - settings.itm_start
        return ramped(settings.hardness, since, settings.hardness_ramp_steps)

    def expected_words(self, batch: Batch, image: Float[Tensor, "B P C"]) -> ExpectedWords:
        """What text and image, and what the text alone, expect at the masked positions."""
        vilta, mask, at = self.model.vilta, batch.attention_mask, batch.masked_positions
        masked = vilta.encode_text(batch.masked_input_ids, mask)  # [B, L, C]
        fused = vilta.fuse_at(at, masked, mask, image)  # [M, D]
        text = masked.flatten(0, 1)[at]  # [M, C]
        return ExpectedWords(
            logits=self.model.predict_words(fused, text),
            text_logits=self.model.predict_words_from_text(text),
        )

    def alpha(self) -> float | Tensor:
        """Return the weight of the soft labels at this step."""
        return ramped(self.objective.alpha, self.step, self.objective.alpha_ramp_steps)

    @torch.no_grad()
    def soft_labels(self, batch: Batch) -> Float[Tensor, "M V"] | None:
        """Return the teacher's logits at the masked positions, as the config asks."""
        if self.objective.soft_labels == "none" or self.objective.alpha == 0:
            return None
        if self.momentum_model is not None:
            momentum, mask = self.momentum_model, batch.attention_mask
            text = momentum.vilta.encode_text(batch.masked_input_ids, mask)
            image = momentum.vilta.encode_image(batch.pixel_values)
            at = batch.masked_positions
            fused = momentum.vilta.fuse_at(at, text, mask, image)
            return momentum.predict_words(fused, text.flatten(0, 1)[at])
        clean = self._teacher_reads_clean()
        return self._teacher_logits(batch, batch.input_ids if clean else batch.masked_input_ids)

    def _teacher_reads_clean(self) -> bool:
        """Whether the soft labels of a step are the teacher's opinion of the clean captions."""
        settings = self.objective
        learns = settings.soft_labels == "language_model" and settings.alpha > 0
        return learns and settings.teacher_view == "clean"

    @torch.no_grad()
    def write_negatives(
        self,
        batch: Batch,
        text_logits: Float[Tensor, "M V"],
        logits: Float[Tensor, "M V"],
        soft: Float[Tensor, "M V"] | None,
        filter_name: str,
    ) -> SynthesisedNegatives:
        """Rewrite captions from what the text alone expects; see ``ObjectiveConfig.negatives``."""
        settings = self.objective
        filters = {
            "none": lambda: None,
            "grounded": lambda: without_teacher(
                logits,
                soft,
                alpha=self.alpha(),
                temperature=settings.temperature,
                top_k=settings.top_k,
            ),
            "soft_label": lambda: (
                soft
                if self._teacher_reads_clean()
                else self._teacher_logits(batch, batch.input_ids)
            ),
        }
        return synthesise_negatives(
            batch.input_ids,
            batch.word_ids,
            batch.masked_positions,
            text_logits,
            self.words.tables(),
            filter_logits=filters[filter_name](),
            filter_ratio=settings.filter_ratio,
            candidates=settings.candidates,
            min_p=settings.min_p,
            temperature=settings.negative_temperature,
            max_changes=settings.max_changes,
        )

    def after_step(self) -> None:
        """Count the step, hold the temperature, let the momentum copy follow (ALBEF)."""
        self.step += 1
        self._begin(self._steps_taken + 1)
        self.model.itc_head.clamp_scale()
        if self.momentum_model is not None:
            decay = self.objective.momentum
            with torch.no_grad():
                for slow, fast in zip(
                    self.momentum_model.parameters(), self.model.parameters(), strict=True
                ):
                    slow.lerp_(fast, 1 - decay)
                for slow, fast in zip(
                    self.momentum_model.buffers(), self.model.buffers(), strict=True
                ):
                    slow.copy_(fast)  # statistics of batch norms

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
        self.model.config.ranking = trained_stages(self.objective)[-1]
        self.model.save_pretrained(folder)
        ViltaProcessor.from_config(self.model.config, self.tokenizer).save_pretrained(folder)

    def _teacher_logits(self, batch: Batch, input_ids: Tensor) -> Float[Tensor, "M V"]:
        assert self.teacher is not None
        states = text_states(self.teacher, input_ids, batch.attention_mask)
        return language_model_logits(self.teacher, states.flatten(0, 1)[batch.masked_positions])


def _frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False).eval()
