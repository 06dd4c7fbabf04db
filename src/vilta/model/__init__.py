"""The model in the conventions of transformers."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from vilta.model.base import ViltaModel
from vilta.model.configuration import ViltaConfig
from vilta.model.conv_vit import ConvViTConfig, ConvViTModel
from vilta.model.downstream import (
    ViltaForImageTextClassification,
    ViltaForImageTextRetrieval,
    ViltaForVisualEntailment,
    ViltaForVisualQuestionAnswering,
    ViltaForVisualReasoning,
    ViltaForZeroShotImageClassification,
)
from vilta.model.modeling import ViltaForPreTraining
from vilta.model.processing import ViltaProcessor

__all__ = [
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


def register_auto_classes() -> None:
    """Make transformers' Auto classes know vilta's; the other tasks have no Auto class there."""
    for config, model in ((ViltaConfig, ViltaModel), (ConvViTConfig, ConvViTModel)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    for auto, model in (
        (AutoModelForPreTraining, ViltaForPreTraining),
        (AutoModelForVisualQuestionAnswering, ViltaForVisualQuestionAnswering),
        (AutoModelForZeroShotImageClassification, ViltaForZeroShotImageClassification),
    ):
        auto.register(ViltaConfig, model, exist_ok=True)
    AutoProcessor.register(ViltaConfig, ViltaProcessor, exist_ok=True)


register_auto_classes()
