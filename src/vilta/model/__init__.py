"""The model in the conventions of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

from vilta.model.configuration import ViltaConfig
from vilta.model.conv_vit import ConvViTConfig, ConvViTModel
from vilta.model.downstream import (
    ViltaForImageTextClassification,
    ViltaForImageTextRetrieval,
    ViltaForVisualEntailment,
    ViltaForVisualQuestionAnswering,
    ViltaForVisualReasoning,
)
from vilta.model.modeling import ViltaForPreTraining, ViltaModel
from vilta.model.processing import ViltaProcessor

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


def register_auto_classes() -> None:
    """Make ``AutoConfig``, ``AutoModel`` and ``AutoProcessor`` know vilta's classes."""
    AutoConfig.register("vilta", ViltaConfig, exist_ok=True)
    AutoModel.register(ViltaConfig, ViltaModel, exist_ok=True)
    AutoModelForPreTraining.register(ViltaConfig, ViltaForPreTraining, exist_ok=True)
    AutoProcessor.register(ViltaConfig, ViltaProcessor, exist_ok=True)
    AutoConfig.register(ConvViTConfig.model_type, ConvViTConfig, exist_ok=True)
    AutoModel.register(ConvViTConfig, ConvViTModel, exist_ok=True)


register_auto_classes()
