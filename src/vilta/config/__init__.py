"""Every setting of every command: frozen dataclasses whose field docstrings are their help."""

from vilta.config.pretrain import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizationConfig,
    PretrainConfig,
    RunConfig,
)
from vilta.config.pretrain_text import PretrainTextConfig, TextDataConfig, TextModelConfig

__all__ = [
    "DataConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizationConfig",
    "PretrainConfig",
    "PretrainTextConfig",
    "RunConfig",
    "TextDataConfig",
    "TextModelConfig",
]
