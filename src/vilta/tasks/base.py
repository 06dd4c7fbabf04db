"""What every task is: a module that owns a model, its loss and its metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.types import Losses


class Task(nn.Module):
    """Base of all tasks; the training loop needs nothing else.

    A subclass sets ``model`` and ``tokenizer``, and writes ``forward`` and ``evaluate``. Of the
    module's state ``forward`` changes nothing but, in training, the running statistics of batch
    norms that learn (``freeze_batch_norm: false``).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def forward(self, batch: Any) -> Losses:
        """Return what to minimise for one batch, and what to log."""
        raise NotImplementedError

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Return the task's figures on held-out data."""
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


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Join nested names with slashes: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    result: dict[str, float] = {}
    for name, value in figures.items():
        key = f"{prefix}{name}"
        result |= flat(value, f"{key}/") if isinstance(value, dict) else {key: value}
    return result
