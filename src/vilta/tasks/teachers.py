"""Who teaches the model during pre-training: a frozen language model, or its own moving average."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from vilta.config import ObjectiveConfig
from vilta.model import ViltaForPreTraining
from vilta.model.encoder_attention import speed_up
from vilta.model.encoders import language_model_logits, text_states
from vilta.objectives.contrastive import Similarity, compare, mixed_contrastive_loss, positive_pairs
from vilta.objectives.distillation import ramped
from vilta.tasks.comparing import ComparingTask
from vilta.tasks.global_batch import Shared
from vilta.tasks.key_queue import KeyQueue, Keys
from vilta.types import Batch


class Momentum(NamedTuple):
    """What the moving average of the model makes of a batch's images and captions."""

    image_states: Float[Tensor, "B P C"]
    keys: Keys | None
    """For the queue, where there is one."""


class TaughtTask(ComparingTask):
    """A task whose masked words, and perhaps contrast, learn from soft labels."""

    model: ViltaForPreTraining
    objective: ObjectiveConfig
    step: Tensor
    """``steps_taken`` as a checkpoint keeps it; no ``forward`` reads it."""
    ramped_alpha: Tensor
    ramped_hardness: Tensor
    momentum_model: ViltaForPreTraining | None
    queue: KeyQueue | None

    def take_teachers(self, teacher: PreTrainedModel | None) -> None:
        """Set up the teachers that ``objective`` asks for.

        Raises ``ValueError`` if it needs a frozen language model and ``teacher`` is None.
        """
        settings = self.objective
        self.teacher = self.momentum_model = self.queue = None
        if settings.needs_teacher():
            if teacher is None:
                raise ValueError(
                    "these objectives learn from a frozen language model; give a teacher"
                )
            self.teacher = _frozen(speed_up(teacher)).eval()
        if "momentum" in (settings.soft_labels, settings.itc_targets):
            self.momentum_model = _frozen(copy.deepcopy(self.model))
        if settings.itc_targets == "momentum":
            self.queue = KeyQueue(settings.queue_size, self.model.config.contrastive_width)

    def count_steps(self) -> None:
        """Set up the count of steps, which a loaded checkpoint goes on with."""
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        for name in ("ramped_alpha", "ramped_hardness"):
            self.register_buffer(name, torch.zeros(()), persistent=False)
        self.begin(0)
        self.register_load_state_dict_post_hook(lambda task, _: task.begin(int(task.step)))

    def begin(self, steps: int) -> None:
        """Begin what is due after so many steps, between two steps.

        The count is a number of Python, so that nothing waits for a device to know what is due.
        What is ramped comes as numbers on the device: in a compiled step, a number of Python that
        changes is a new program.
        """
        settings = self.objective
        self.steps_taken = steps
        self.step.fill_(steps)
        self.mlm_begun, self.itm_begun = steps >= settings.mlm_start, steps >= settings.itm_start
        since = steps - settings.mlm_start
        self.ramped_alpha.fill_(ramped(settings.alpha, since, settings.alpha_ramp_steps))
        since = steps - settings.itm_start
        self.ramped_hardness.fill_(ramped(settings.hardness, since, settings.hardness_ramp_steps))

    def train(self, mode: bool = True) -> TaughtTask:
        """Switch the mode; the frozen teacher always stays in evaluation mode.

        The moving average keeps its dropout in training, as in ALBEF, but not its batch norms,
        because it is frozen: their statistics follow the model's.
        """
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    @torch.no_grad()
    def momentum(self, batch: Batch) -> Momentum | None:
        """Return what the moving average encodes; None without one."""
        if self.momentum_model is None:
            return None
        slow, mask = self.momentum_model, batch.attention_mask
        image = slow.vilta.encode_image(batch.pixel_values)
        if self.queue is None:
            return Momentum(image, None)
        text = slow.vilta.encode_text(batch.input_ids, mask)
        embeds = slow.embed_image(image), slow.embed_text(text, mask)
        return Momentum(image, Keys(*embeds, batch.image_ids, batch.caption_ids))

    @torch.no_grad()
    def soft_labels(
        self, batch: Batch, momentum: Momentum | None = None
    ) -> Float[Tensor, "M V"] | None:
        """Return the teacher's logits at the masked positions, as the config asks.

        ``momentum`` spares encoding the images again, if it was computed.
        """
        settings = self.objective
        if settings.soft_labels == "none" or settings.alpha == 0:
            return None
        if settings.soft_labels == "momentum":
            assert self.momentum_model is not None
            slow, mask, at = self.momentum_model, batch.attention_mask, batch.masked_positions
            text = slow.vilta.encode_text(batch.masked_input_ids, mask)
            found = momentum or self.momentum(batch)
            assert found is not None
            fused = slow.vilta.fuse_at(at, text, mask, found.image_states)
            return slow.predict_words(fused, text.flatten(0, 1)[at])
        clean = settings.teacher_view == "clean"
        logits = self.teacher_logits(batch, batch.input_ids if clean else batch.masked_input_ids)
        if settings.soft_labels == "shuffled":
            logits = logits[:, torch.randperm(logits.shape[1], device=logits.device)]
        return logits

    @torch.no_grad()
    def teacher_logits(self, batch: Batch, input_ids: Tensor) -> Float[Tensor, "M V"]:
        """Return what the frozen language model expects at the masked positions of these texts."""
        assert self.teacher is not None
        states = text_states(self.teacher, input_ids, batch.attention_mask)
        return language_model_logits(self.teacher, states.flatten(0, 1)[batch.masked_positions])

    def contrast_with_queue(
        self,
        batch: Batch,
        image: Float[Tensor, "B P C"],
        text: Float[Tensor, "B L Ct"],
        fresh: Keys,
        shared: Shared | None,
    ) -> tuple[Similarity, Tensor]:
        """Contrast as in ALBEF: with the moving average's embeddings, now and in the past.

        Returns the similarity to the step's own pairs, which guides the in-batch negatives, and the
        loss; its keys are the micro-batch's and the queue's.
        """
        assert self.queue is not None
        if shared:
            images, texts = shared.own.image_embeds, shared.own.text_embeds
        else:
            images = self.model.embed_image(image)
            texts = self.model.embed_text(text, batch.attention_mask)
        keys = self.queue.after(fresh)
        scale = self.model.itc_head.scale()
        similarity = compare(images, texts, keys.image_embeds, keys.text_embeds, scale)
        slow = compare(
            fresh.image_embeds,
            fresh.text_embeds,
            keys.image_embeds,
            keys.text_embeds,
            scale.detach(),
        )
        positive_mask = positive_pairs(batch.image_ids, batch.caption_ids, keys.ids())
        loss = mixed_contrastive_loss(similarity, positive_mask, slow, self.ramped_alpha)
        if self.training:
            self.queue.announce(fresh)
        if shared:  # negatives are drawn from all pairs of the step
            return self.compare(batch, image, text, shared), loss
        size = len(batch)
        return Similarity(similarity.to_text[:, :size], similarity.to_image[:, :size]), loss

    @torch.no_grad()
    def follow(self) -> None:
        """Let the moving average follow the model, and the queue take the step's embeddings."""
        if self.queue is not None:
            self.queue.push()
        if self.momentum_model is None:
            return
        slow, fast = self.momentum_model, self.model
        for mine, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.objective.momentum)
        for mine, theirs in zip(slow.buffers(), fast.buffers(), strict=True):
            mine.copy_(theirs)  # statistics of batch norms


def _frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)
