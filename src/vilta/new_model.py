"""The model that a pre-training run begins with: two encoders joined, or the weights of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from vilta.config import PretrainConfig
from vilta.finished_run import released_class
from vilta.model import ViltaForPreTraining
from vilta.model.language_model import load_tokenizer
from vilta.model.pixel_statistics import pixel_statistics
from vilta.model.pretrained import ViltaPreTrainedModel
from vilta.objectives.vocabulary import require_same_words
from vilta.screen import notes
from vilta.training.folder import model_folder

_NEEDED = ("layout", "pooling", "contrastive_width", "image_mean", "image_std")
"""Settings, beside the encoders, that everything but the fusion was trained for."""
_FUSION = (
    "fusion",
    "fusion_layers",
    "hidden_size",
    "num_attention_heads",
    "fusion_input",
    "word_head",
    "image_pooling",
)
"""What the weights of the fusion are made for; some of it leaves their shapes as they are."""


def build_model(config: PretrainConfig) -> ViltaForPreTraining:
    """Join the two encoders that the config names; the weights of a run, if it starts from one."""
    settings = config.model
    mean, std = pixel_statistics(settings.image)
    model = ViltaForPreTraining.from_encoders(
        settings.image,
        settings.text,
        fusion=settings.fusion,
        fusion_layers=settings.fusion_layers,
        hidden_size=settings.fusion_width,
        num_attention_heads=settings.fusion_heads,
        fusion_input=settings.fusion_input,
        word_head=settings.word_head,
        pooling=settings.pooling,
        image_pooling=settings.image_pooling,
        dropout=settings.dropout,
        initializer_range=settings.initializer_range,
        contrastive_width=settings.contrastive_width,
        image_size=config.data.image_size,
        max_text_tokens=config.data.max_text_tokens,
        image_mean=mean,
        image_std=std,
    )
    if settings.start:
        take_weights(model, settings.start, load_tokenizer(settings.text))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    freeze_encoders(model, settings.freeze)
    return model


def freeze_encoders(model: ViltaPreTrainedModel, names: Iterable[str]) -> None:
    """Keep the encoders of these names, ``image`` and ``text``, as they are."""
    encoders = {"image": model.vilta.vision, "text": model.vilta.text}
    for name in names:
        encoders[name].requires_grad_(False)


def take_weights(
    model: ViltaForPreTraining, start: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Give a model, which reads the words of ``tokenizer``, the weights of a pre-training run.

    All of them; of a run with another fusion only the encoders and what contrast compares through,
    and a note says so. Raises ``ValueError`` if the run was fine-tuned for a task, if it read other
    words or pixels of another mean or deviation, or if even its encoders or contrast are others, as
    they are where one fusion has layers of the text encoder.
    """
    kind = released_class(start)
    if kind != type(model).__name__:
        raise ValueError(f"model.start: {start} holds a {kind}; name a pre-training run")
    folder = model_folder(start)
    require_same_words(tokenizer, load_tokenizer(str(folder)), names=("model.text", "model.start"))
    before = ViltaForPreTraining.from_pretrained(folder)
    others, needed = (
        [n for n in names if getattr(before.config, n) != getattr(model.config, n)]
        for names in (_FUSION, _NEEDED)
    )
    try:
        if not needed and not others:
            model.load_state_dict(before.state_dict())
        elif not needed:
            for ours, theirs in zip(_below_fusion(model), _below_fusion(before), strict=True):
                ours.load_state_dict(theirs.state_dict())
            with torch.no_grad():
                model.itc_head.log_scale.copy_(before.itc_head.log_scale)
            notes.print(f"model.start: the fusion begins anew, for its {', '.join(others)} changed")
    except RuntimeError:  # of other names or shapes
        needed = ["image or text encoder"]
        kinds = {before.config.fusion, model.config.fusion}
        if "text-layers" in kinds and {"fusion", "fusion_layers"} & set(others):
            needed = ["fusion text-layers takes layers off the text encoder"]
    if needed:
        raise ValueError(
            f"model.start: {start} is of another architecture ({', '.join(needed)}); give the "
            "settings `model` of its config.yaml"
        )


def _below_fusion(model: ViltaForPreTraining) -> list[nn.Module]:
    """Return the encoders, and what contrast compares through."""
    vilta = model.vilta
    return [vilta.vision, vilta.image_norm, vilta.text, *model.compared_through()]
