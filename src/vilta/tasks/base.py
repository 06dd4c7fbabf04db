"""What every task is: a module that owns a model and its loss."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.types import Losses


class Task(nn.Module):
    """Base of all tasks; the training loop needs nothing else.

    A subclass sets ``model`` and ``tokenizer``, and writes ``forward``. Of the
    module's state ``forward`` changes nothing but, in training, the running statistics of batch
    norms that learn (``freeze_batch_norm: false``).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def forward(self, batch: Any) -> Losses:
        """Return what to minimise for one batch, and what to log."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what must follow an optimizer step; nothing by default."""

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Sort the trainable parameters into `encoders`, `fusion` and `heads`."""
        groups: dict[str, list[nn.Parameter]] = {"encoders": [], "fusion": [], "heads": []}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.startswith(("vilta.vision.", "vilta.text.")):
                groups["encoders"].append(parameter)
            elif name.startswith("vilta."):
                groups["fusion"].append(parameter)
            else:
                groups["heads"].append(parameter)
        return groups
