"""Any transformers image encoder, any transformers masked language model, seen alike.

Nothing here knows a model by its name. An image encoder is an ``AutoModel`` whose
``last_hidden_state`` is a token sequence ``[B, P, C]`` or a feature map ``[B, C, h, w]``. A text
encoder is an ``AutoModelForMaskedLM``: its base model gives the states, and its head is applied
later, to the masked positions alone.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput

from vilta.config.shipped import find_shipped
from vilta.model.damage import UNREADABLE, check_sizes, damage_told, reason_of
from vilta.model.encoder_attention import speed_up
from vilta.model.places import check_place


def load_image_encoder(source: str | PreTrainedConfig) -> PreTrainedModel:
    """Load an image encoder from a hub id or folder, or build one at random from a config.

    Of a two-tower checkpoint such as CLIP, the image tower is taken. Raises ``ValueError`` if the
    checkpoint lacks weights or transformers has no such image encoder.
    """
    config = encoder_config(source)
    config = getattr(config, "vision_config", config)
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"{config.model_type!r} is not an encoder that AutoModel supports")
    return _load(AutoModel, source, config)


def load_text_encoder(source: str | PreTrainedConfig) -> PreTrainedModel:
    """Load a masked language model, head included, from a hub id, folder or config.

    Raises ``ValueError`` if the architecture has no masked language model or weights are missing.
    """
    config = encoder_config(source)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"{config.model_type!r} has no masked language model in transformers; take an encoder "
            "such as BERT, RoBERTa, DistilBERT, ModernBERT or MPNet"
        )
    return speed_up(check_language_model(_load(AutoModelForMaskedLM, source, config)))


def starts_at_random(source: str | PreTrainedConfig) -> bool:
    """Whether an encoder's source is a configuration alone (object or file), without weights."""
    return isinstance(source, PreTrainedConfig) or Path(_located(source)).is_file()


def check_language_model(model: PreTrainedModel) -> PreTrainedModel:
    """Return ``model`` if its head can be applied apart from its encoder, else say why not."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder with a decoder; take an encoder such as BERT")
    encoder = getattr(model, model.base_model_prefix, None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"{name} keeps no separate encoder under `{model.base_model_prefix}`, "
            "so its head cannot be applied to masked positions alone; take another text encoder"
        )
    if "attention_mask" not in inspect.signature(encoder.forward).parameters:
        raise ValueError(
            f"{name} takes no attention mask, so a caption's states would depend on the padding "
            "beside it; take another text encoder"
        )
    return model


def check_patch(config: PreTrainedConfig, height: int, width: int) -> None:
    """Raise ``ValueError`` if images are smaller than a patch of an image encoder."""
    patch = getattr(config, "patch_size", 1)
    smallest = max(patch) if isinstance(patch, list | tuple) else patch
    if min(height, width) < smallest:
        raise ValueError(
            f"images of {height}x{width} pixels are smaller than a patch ({smallest}); use a "
            "larger --data.image-size"
        )


def image_width(config: PreTrainedConfig) -> int:
    """Return the number of channels of an image encoder's last hidden state."""
    if isinstance(width := getattr(config, "hidden_size", None), int):
        return width
    if sizes := getattr(config, "hidden_sizes", None):
        return int(sizes[-1])
    raise ValueError(
        f"{config.model_type!r} states neither `hidden_size` nor `hidden_sizes`, so its width is "
        "unknown; add one of them to its configuration"
    )


def image_states(
    encoder: PreTrainedModel, pixels: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B P C"]:
    """Encode normalised images as tokens.

    Position embeddings are interpolated where the encoder offers it, so any image size works. A
    feature map is flattened row by row, and since a cell does not encode its position, fixed
    two-dimensional sine waves are added (as DETR does, arXiv 2005.12872).
    """
    options: dict[str, Any] = {}
    if "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters:
        options["interpolate_pos_encoding"] = True
    states = encoder(pixels, **options).last_hidden_state
    if states.dim() == 4:
        height, width = states.shape[-2:]
        states = states.flatten(2).transpose(1, 2)
        grid = grid_positions(height, width, states.shape[-1], states.device)
        states = states + grid.to(encoder.dtype)
    return states


def hold_statistics(encoder: PreTrainedModel) -> dict[str, Any]:
    """Return the options of a checkpoint around a whole encoder, so that it counts images once.

    Batch norms that learn would take them in once more when the encoder is run again. A compiled
    step does that of its own, and accepts no such option.
    """
    norms = [m for m in encoder.modules() if m.training and "running_mean" in m._buffers]
    if not norms or torch.compiler.is_compiling():
        return {}
    return {"context_fn": lambda: (nullcontext(), _held_statistics(norms))}


@contextmanager
def _held_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Give the norms, on the way out, the statistics that they had."""
    found = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    before = [buffer.clone() for buffer in found]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(found, before, strict=True):
                buffer.copy_(value)


def grid_positions(
    height: int, width: int, channels: int, device: torch.device
) -> Float[Tensor, "P C"]:
    """Sine and cosine waves of a cell's row and column, ``P = height * width``; parameter-free.

    Coordinates run from 0 to 1 whatever the size of the map, so that a model trained at one image
    size knows the places of another.
    """
    waves = max(channels // 4, 1)
    frequency = math.pi * torch.exp(
        torch.linspace(0, math.log(32.0), waves, device=device)  # 0.5 to 16 periods, our choice
    )
    rows = torch.linspace(0, 1, height, device=device)[:, None] * frequency
    columns = torch.linspace(0, 1, width, device=device)[:, None] * frequency
    grid = torch.cat(
        [
            torch.cat([rows.sin(), rows.cos()], -1)[:, None].expand(-1, width, -1),
            torch.cat([columns.sin(), columns.cos()], -1)[None].expand(height, -1, -1),
        ],
        dim=-1,
    ).flatten(0, 1)
    return nn.functional.pad(grid, (0, max(channels - grid.shape[-1], 0)))[:, :channels]


def text_states(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "R L"],
    attention_mask: Int[Tensor, "R L"],
) -> Float[Tensor, "R L C"]:
    """Return the hidden states of a masked language model's encoder, without its head."""
    encoder = getattr(model, model.base_model_prefix)
    return encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def language_model_logits(
    model: PreTrainedModel, states: Float[Tensor, "M C"]
) -> Float[Tensor, "M V"]:
    """Apply a masked language model's own head to hidden states picked from its encoder.

    Every architecture names and wires its head differently; all of them compute it in ``forward``
    from what the encoder returned. So ``forward`` is run on a view of the model whose encoder
    returns the given states. The view shares all parameters; the model itself is not touched.
    """
    return _head_of(model)(inputs_embeds=states[None]).logits[0]


def _head_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the view of ``model``, made once: torch.compile cannot follow its making."""
    encoder = model.base_model_prefix
    view = model.__dict__.get(_VIEW)
    if view is None or any(
        view._modules[name] is not part for name, part in model._modules.items() if name != encoder
    ):
        view = copy.copy(model)
        view._modules = {**model._modules, encoder: _GivenStates(getattr(model, encoder))}
        model.__dict__[_VIEW] = view  # not a submodule: its weights are the model's own
    return view


_VIEW = "_vilta_head"


class _GivenStates(nn.Module):
    """Replaces an encoder and returns the states that it is given as embeddings.

    Its parts are those of the encoder: some heads reach for its word embeddings.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._modules = encoder._modules

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Return the states, whatever the other arguments."""
        return _StatesAlone(last_hidden_state=inputs_embeds)


class _StatesAlone(BaseModelOutput):
    """States, and None for whatever else a head hands on, such as global attentions."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def _located(source: str) -> str:
    """Return the path of an encoder configuration that vilta ships, else ``source`` itself."""
    return find_shipped(source, ".json")


def encoder_config(source: str | PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration of an encoder; ``ValueError`` in one line if it cannot be read."""
    if isinstance(source, PreTrainedConfig):
        return source
    try:
        check_place(_located(source))
        config = AutoConfig.from_pretrained(_located(source))
        check_sizes(config)
    except (OSError, *UNREADABLE) as error:
        reason = reason_of(error)
        raise ValueError(f"cannot read an encoder from {source!r}: {reason}") from None
    return config


def _load(auto: type, source: str | PreTrainedConfig, config: PreTrainedConfig) -> PreTrainedModel:
    """Build from a config (random weights) or load strictly: a missing weight is an error."""
    if starts_at_random(source):
        with damage_told(config.model_type if isinstance(source, PreTrainedConfig) else source):
            return auto.from_config(config)  # type: ignore[attr-defined]
    try:
        model, missing = load_weights(auto, source, config)
    except OSError as error:
        raise ValueError(f"cannot load the weights of {source!r}: {reason_of(error)}") from None
    if missing:
        raise ValueError(
            f"{source!r} lacks {len(missing)} weights of {type(model).__name__}, first: "
            f"{missing[0]}; train it first, or start from a checkpoint that has them"
        )
    return model


def load_weights(
    auto: type, source: str | PreTrainedConfig, config: PreTrainedConfig
) -> tuple[PreTrainedModel, list[str]]:
    """Load a checkpoint in float32; return the model, and the weights that it lacks by name.

    Not those of a pooler: it is not used here, and many released checkpoints come without one.
    """
    with damage_told(source):
        model, info = auto.from_pretrained(  # type: ignore[attr-defined]
            source, config=config, output_loading_info=True, dtype=torch.float32
        )
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing and getattr(config, "legacy", False):
        # DeBERTa's checkpoints have the head as its authors wrote it, their configuration the flag
        # of another one; the flag is of the head alone.
        config = copy.deepcopy(config)
        config.legacy = False
        other, still_missing = load_weights(auto, source, config)
        if len(still_missing) < len(missing):
            return other, still_missing
    return model, missing
