"""Loads a released model that can match images with texts, from a run or a released folder."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.model import ViltaForImageTextRetrieval, ViltaForPreTraining
from vilta.model.configuration import read_config
from vilta.model.language_model import load_tokenizer
from vilta.model.modeling import WithMatching
from vilta.training.folder import model_folder

CLASSES = {c.__name__: c for c in (ViltaForPreTraining, ViltaForImageTextRetrieval)}
"""Models with a match head and a contrastive space."""
SAMPLED = 512
"""Values of each weight that the model's hash reads; our choice."""
_UNTRAINED = {
    "contrast": ("matching", "objective.itc_weight is 0"),
    "matching": ("contrastive", "objective.itm_weight is 0, or it ended before itm_start"),
}
"""What may be missing -> the ranking of a model without it, and how that comes about."""


class NotTrained(ValueError):
    """The model was trained without what this needs: matching, or contrast."""


class Released(NamedTuple):
    """A model with its tokenizer."""

    model: WithMatching
    tokenizer: PreTrainedTokenizerBase


def load_released(source: str | os.PathLike[str]) -> Released:
    """Load a run's released model, or a released folder.

    Raises ``ValueError`` in one line if it is none of these, or a model of another task.
    """
    place = str(model_folder(str(source)))
    saved_by = (read_config(place).architectures or ["a model"])[0]
    if saved_by not in CLASSES:
        raise ValueError(
            f"{source} holds a {saved_by}, which cannot match images with texts; use a "
            "pre-training run, or one fine-tuned for retrieval"
        )
    return Released(CLASSES[saved_by].from_pretrained(place), load_tokenizer(place))


def has_trained(what: str, model: PreTrainedModel) -> bool:
    """Whether a model's run has trained ``contrast``, or ``matching``."""
    return model.config.ranking != _UNTRAINED[what][0]


def require_trained(what: str, model: PreTrainedModel, name: str) -> None:
    """Raise ``NotTrained`` unless the named model has trained ``contrast``, or ``matching``."""
    if not has_trained(what, model):
        why = _UNTRAINED[what][1]
        raise NotTrained(f"this needs {what}, but {name} was trained without ({why})")


def hash_of_weights(model: torch.nn.Module) -> str:
    """Return a hash that identifies a trained model, from a sample of every weight."""
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        values = weight.detach().flatten()
        sample = values[:: max(1, len(values) // SAMPLED)].cpu().double().numpy()
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
