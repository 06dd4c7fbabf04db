"""Settings of the smallest run that has every part: shared by these programs and by the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vilta.config import (
    ModelConfig,
    OptimizationConfig,
    PretrainTextConfig,
    RunConfig,
    TextDataConfig,
    TextModelConfig,
)

IMAGE = {
    "model_type": "vilta-conv-vit",
    "stem_widths": [8, 16, 16],
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
"""An image encoder of a few thousand weights for 32 pixels."""


def write_image_encoder(folder: Path) -> str:
    """Write the config of the image encoder into a folder and return its path."""
    path = folder / "image.json"
    path.write_text(json.dumps(IMAGE))
    return str(path)


def text_settings(train: str, out: Path, **optimization: Any) -> PretrainTextConfig:
    """Return settings that train a language model in four steps."""
    return PretrainTextConfig(
        data=TextDataConfig(train=train, workers=0),
        model=TextModelConfig(vocabulary=400, width=16, layers=1, heads=2),
        optimization=OptimizationConfig(steps=4, batch_size=16, **optimization),
        run=RunConfig(out=str(out), device="cpu", selection_metric="text/top1"),
    )


def model_settings(image: str, text: str) -> ModelConfig:
    """Return the settings of a model with one fusion layer."""
    return ModelConfig(
        image=image,
        text=text,
        fusion_layers=1,
        fusion_width=16,
        fusion_heads=2,
        contrastive_width=8,
    )
