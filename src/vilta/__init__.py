"""Vision-language pre-training through textual augmentation (ViLTA, ICCV 2023).

Every run leaves a folder ``RUN/model`` that transformers loads::

    import torch
    import vilta  # transformers' Auto classes know the model from here on
    from transformers import AutoModelForPreTraining, AutoProcessor

    model = AutoModelForPreTraining.from_pretrained("runs/demo/model").eval()
    processor = AutoProcessor.from_pretrained("runs/demo/model")
    captions = ["a blue moon above a gray ring", "a blue star above a gray ring"]
    batch = processor(images="photo.jpg", text=captions, return_tensors="pt")
    with torch.no_grad():
        output = model(**batch)  # one image meets every caption
    print(output.match_logits.softmax(dim=-1)[:, 1].tolist())  # how well each caption matches
    print(output.image_embeds @ output.text_embeds.T)  # cosine similarity: fast search

``model.get_image_features`` and ``model.get_text_features`` embed either alone, and
``pipeline("zero-shot-image-classification", "runs/demo/model")`` ranks labels.
Training is the command line's: ``vilta --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vilta.registration import register_with_transformers
from vilta.version import __version__ as __version__

if TYPE_CHECKING:
    from vilta.apps.matcher import Matcher
    from vilta.model import (
        ViltaConfig,
        ViltaForImageTextClassification,
        ViltaForImageTextRetrieval,
        ViltaForPreTraining,
        ViltaForVisualEntailment,
        ViltaForVisualQuestionAnswering,
        ViltaForVisualReasoning,
        ViltaForZeroShotImageClassification,
        ViltaModel,
        ViltaProcessor,
    )

__all__ = [
    "Matcher",
    "ViltaConfig",
    "ViltaForImageTextClassification",
    "ViltaForImageTextRetrieval",
    "ViltaForPreTraining",
    "ViltaForVisualEntailment",
    "ViltaForVisualQuestionAnswering",
    "ViltaForVisualReasoning",
    "ViltaForZeroShotImageClassification",
    "ViltaModel",
    "ViltaProcessor",
]


register_with_transformers()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's help does without torch."""
    if name == "Matcher":
        return importlib.import_module("vilta.apps.matcher").Matcher
    if name in __all__:
        return getattr(importlib.import_module("vilta.model"), name)
    raise AttributeError(f"module 'vilta' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
