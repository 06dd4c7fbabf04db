"""Layers of BERT and RoBERTa as layers of the fusion: their names here, and a tower cut in two.

ALBEF (arXiv 2107.07651) encodes a text with the lower half of BERT and lets the upper half read the
image: its layers, with cross-attention put in, are the fusion.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from vilta.model.encoder_checks import same
from vilta.model.encoders import text_states

if TYPE_CHECKING:
    from vilta.model.base import ViltaModel

State = dict[str, Tensor]
NAMES = {
    r"\.crossattention\.self\.query\b": ".cross.query",
    r"\.crossattention\.self\.key\b": ".cross.key_value",
    r"\.crossattention\.output\.dense\b": ".cross.out",
    r"\.crossattention\.output\.LayerNorm\b": ".cross_norm",
    r"\.attention\.self\.query\b": ".self_attention.query",
    r"\.attention\.self\.key\b": ".self_attention.key_value",
    r"\.attention\.output\.dense\b": ".self_attention.out",
    r"\.attention\.output\.LayerNorm\b": ".self_norm",
    r"\.intermediate\.dense\b": ".mlp.0",
    r"\.output\.dense\b": ".mlp.2",
    r"\.output\.LayerNorm\b": ".mlp_norm",
}
"""Patterns of BERT's names and what ``PostNormLayer`` calls the same, applied in this order."""
PARTS = frozenset(
    f"{part}.{kind}"
    for part in (
        *(f"attention.self.{name}" for name in ("query", "key", "value")),
        *("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense"),
        *("output.dense", "output.LayerNorm"),
    )
    for kind in ("weight", "bias")
)
"""Weights of a layer of BERT."""


def from_bert(state: State) -> State:
    """Give the weights of BERT's layers the names and the grouping of ``PostNormLayer``.

    Names that are not of such a layer stay as they are.
    """
    found: State = {}
    for name, weight in state.items():
        if ".self.value." in name:
            continue
        if ".self.key." in name:
            weight = torch.cat([weight, state[name.replace(".self.key.", ".self.value.")]])
        for pattern, ours in NAMES.items():
            name = re.sub(pattern, ours, name)
        found[name] = weight
    return found


class Upper(NamedTuple):
    """The layers that were taken off a text encoder, and a text to try them with."""

    name: str
    weights: State
    """By their names in the fusion."""
    input_ids: Int[Tensor, "1 L"]
    states: Float[Tensor, "1 L C"]
    """What the whole encoder made of the text."""


def take_upper_layers(model: PreTrainedModel, count: int) -> Upper:
    """Take the upper ``count`` layers off a masked language model, its configuration included.

    Raises ``ValueError`` if its layers are not BERT's, or if none would be left.
    """
    name, other = type(model).__name__, "--model.fusion cross-attention"
    encoder = getattr(getattr(model, model.base_model_prefix), "encoder", None)
    parts = dict(encoder.named_children()) if isinstance(encoder, nn.Module) else {}
    layers = parts.pop("layer", None)
    alike = isinstance(layers, nn.ModuleList) and not parts
    if not alike or any(layer.state_dict().keys() != PARTS for layer in layers):
        raise ValueError(
            f"the layers of {name} are not those of BERT, so they cannot become the fusion; take a "
            f"text encoder such as BERT or RoBERTa, or {other}"
        )
    if count >= len(layers):
        fewer = f"--model.fusion-layers {len(layers) // 2} or " if len(layers) > 1 else ""
        raise ValueError(
            f"the fusion would take {count} of the layers of {name}, which has {len(layers)}, and "
            f"leave none to encode a text; give {fewer}{other}"
        )
    model.eval()
    ids = torch.arange(min(8, model.config.vocab_size))[None]  # any words
    with torch.no_grad():
        states = text_states(model, ids, torch.ones_like(ids))
    lower = len(layers) - count
    taken = {f"text_layers.{i}": layer for i, layer in enumerate(layers[lower:])}
    weights = {f"{at}.{n}": w for at, part in taken.items() for n, w in part.state_dict().items()}
    encoder.layer = layers[:lower]  # type: ignore[union-attr]
    model.config.num_hidden_layers = lower
    return Upper(name, from_bert(weights), ids, states)


def give_upper_layers(vilta: ViltaModel, upper: Upper) -> None:
    """Make layers that were taken off a text encoder the fusion of its model.

    Cross-attention keeps the weights that it has. Raises ``ValueError`` if lower and upper layers
    together do not make of a text what the whole encoder made of it.
    """
    missing, unexpected = vilta.fusion.load_state_dict(upper.weights, strict=False)
    assert not unexpected and all(".cross" in name for name in missing)
    mask = torch.ones_like(upper.input_ids)
    mode = vilta.training
    with torch.no_grad():
        lower = vilta.eval().encode_text(upper.input_ids, mask)
        found = vilta.fusion.read_alone(lower, mask.bool())
    vilta.train(mode)
    if not same(found, upper.states):
        raise ValueError(
            f"the layers of {upper.name} do not work as those of BERT, so they cannot become the "
            "fusion; take another text encoder, or --model.fusion cross-attention"
        )
