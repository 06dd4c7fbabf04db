"""Encoders that train in a second: a language model of the scenes' words, and an image tower."""

from reliability.tiny_settings import IMAGE as IMAGE
from reliability.tiny_settings import text_settings

from vilta.commands import pretrain_text


def train_text_encoder(folder, train) -> str:
    """Train a language model for four steps; return the folder of its model."""
    pretrain_text.run(text_settings(train, folder, lr=1e-3))
    return str(folder / "model")
