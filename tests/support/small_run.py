"""A small random run, and noise for photos."""

import numpy as np
import transformers
from PIL import Image
from tiny_models import SIZE, scramble, tiny_config, tiny_tokenizer

from vilta.config import DataConfig, ObjectiveConfig, PretrainConfig
from vilta.config.yaml_file import save_yaml
from vilta.model import ViltaForPreTraining, ViltaProcessor


def write_run(folder, kind=ViltaForPreTraining, objective=None, **settings):
    """Write a run with a random model, as training leaves it behind."""
    tokenizer = tiny_tokenizer("wordpiece", size=200)
    config = tiny_config(**settings)
    config.text_config = transformers.BertConfig(
        **SIZE, vocab_size=len(tokenizer), max_position_embeddings=64
    )
    model = scramble(kind(config), 0.05)
    model.save_pretrained(folder / "model")
    ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(folder / "model")
    objective = objective or ObjectiveConfig(
        soft_labels="none", filter_ratio=1e9, teacher_filter_ratio=0.0
    )
    data = DataConfig(image_size=32, max_text_tokens=24, workers=0)
    save_yaml(PretrainConfig(data=data, objective=objective), folder / "config.yaml")
    return folder


def noise(seed, size=(40, 50)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
