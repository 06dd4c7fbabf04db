"""Vision-language pre-training through textual augmentation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vilta.registration import register_with_transformers

if TYPE_CHECKING:
    from vilta.model import (
        ViltaConfig,
        ViltaForImageTextClassification,
        ViltaForImageTextRetrieval,
        ViltaForPreTraining,
        ViltaForVisualEntailment,
        ViltaForVisualQuestionAnswering,
        ViltaForVisualReasoning,
        ViltaModel,
        ViltaProcessor,
    )

__all__ = [
    "ViltaConfig",
    "ViltaForImageTextClassification",
    "ViltaForImageTextRetrieval",
    "ViltaForPreTraining",
    "ViltaForVisualEntailment",
    "ViltaForVisualQuestionAnswering",
    "ViltaForVisualReasoning",
    "ViltaModel",
    "ViltaProcessor",
]

__version__ = "0.1.0"

register_with_transformers()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line's help does without torch."""
    if name in __all__:
        return getattr(importlib.import_module("vilta.model"), name)
    raise AttributeError(f"module 'vilta' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
