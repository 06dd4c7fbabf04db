"""Text-only masked language modelling: the text encoder and teacher before any image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.model.encoders import language_model_logits, text_states
from vilta.model.language_model import forget_calls
from vilta.objectives.distillation import distillation_loss
from vilta.tasks.base import Task
from vilta.types import Batch, Losses


class LanguageModellingTask(Task):
    """BERT's objective (arXiv 1810.04805) with whole words; the head only at masked positions."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, batch: Batch) -> Losses:
        """Cross-entropy of the masked words."""
        states = text_states(self.model, batch.masked_input_ids, batch.attention_mask)
        logits = language_model_logits(
            self.model, states.flatten(0, 1)[batch.masked_positions]
        )  # [M, V]
        words = batch.input_ids.flatten()[batch.masked_positions]  # [M]
        loss = distillation_loss(logits, words)  # without a teacher: cross-entropy
        right = (logits.argmax(dim=1) == words).sum() / max(len(words), 1)
        return Losses(total=loss, metrics={"mlm": loss.detach(), "text/top1": right})

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Batch]) -> dict[str, float]:
        """Percent of masked words that are the first, or among the first five, predictions."""
        hits = torch.zeros(3)
        for batch in loader:
            batch = batch.to(self.model.device)
            states = text_states(self.model, batch.masked_input_ids, batch.attention_mask)
            at = batch.masked_positions
            logits = language_model_logits(self.model, states.flatten(0, 1)[at])
            found = logits.topk(5, dim=1).indices == batch.input_ids.flatten()[at][:, None]
            hits += torch.tensor([found[:, 0].sum(), found.sum(), len(at)]).cpu()
        top1, top5, count = hits.tolist()
        return {"text/top1": 100 * top1 / max(count, 1), "text/top5": 100 * top5 / max(count, 1)}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of it is an encoder."""
        return {"encoders": [p for p in self.model.parameters() if p.requires_grad]}

    def save_pretrained(self, folder: str) -> None:
        """Write model and tokenizer, to be loaded by ``AutoModelForMaskedLM``."""
        self.model.save_pretrained(folder)
        forget_calls(self.tokenizer)
        self.tokenizer.save_pretrained(folder)
