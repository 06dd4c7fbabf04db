"""Encoders that train in a second: a language model of the scenes' words, and an image tower."""

from vilta.commands import pretrain_text
from vilta.config import (
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


def train_text_encoder(folder, train) -> str:
    """Train a language model for four steps; return the folder of its model."""
    pretrain_text.run(
        PretrainTextConfig(
            data=TextDataConfig(train=train, workers=0),
            model=TextModelConfig(vocabulary=400, width=16, layers=1, heads=2),
            optimization=OptimizationConfig(steps=4, batch_size=16, lr=1e-3),
            run=RunConfig(out=str(folder), device="cpu", selection_metric="text/top1"),
        )
    )
    return str(folder / "model")
