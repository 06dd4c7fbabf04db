"""The fusion transformer, in which text and image attend to each other.

What does not depend on the pair is computed once per text and once per image, not once per row:
the first self-attention of each stream, and the keys and values of an image that a text reads.
``R`` rows pair ``T`` texts with ``N`` images through two index vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.activations import ACT2FN

from vilta.model.attention import Attention, ComparingAttention, feed_forward
from vilta.model.configuration import ViltaConfig
from vilta.model.dropout import Dropout


class Pairs(NamedTuple):
    """The text and the image of each of ``R`` rows."""

    text: Int[Tensor, "R"]
    image: Int[Tensor, "R"]


class Wanted(NamedTuple):
    """What is read of the last layer, which computes nothing else; None: every position."""

    text: int | None = None
    """The first so many text positions; a matching head may read only the first."""
    image: int | None = None
    """The first so many image positions; 0 leaves the image stream out."""
    at: Int[Tensor, "M"] | None = None
    """Text positions, as a flat index into ``R * L``; then the text states are ``[M, D]``."""


class FusedStates(NamedTuple):
    """What fusion returns; ``image`` is None where it is not computed (always: cross-attention)."""

    text: Float[Tensor, "R Lq D"] | Float[Tensor, "M D"]
    image: Float[Tensor, "R Pq D"] | None


class Fusion(nn.Module):
    """``co-attention`` (two streams, METER) or text reads image, by layers of its own or a BERT's.

    The latter two are ``cross-attention`` and ``text-layers``, which is ALBEF's.
    """

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__()
        layers, of_text = range(config.fusion_layers), config.fusion == "text-layers"
        post = of_text or config.layout == "meter"
        kind = TextLayer if of_text else PostNormLayer if post else Layer
        self.text_layers = nn.ModuleList(kind(config) for _ in layers)
        self.text_norm: nn.Module = nn.Identity() if post else nn.LayerNorm(config.hidden_size)
        self.image_layers: nn.ModuleList | None = None
        self.image_norm: nn.Module = nn.Identity() if post else nn.LayerNorm(config.hidden_size)
        if config.fusion == "co-attention":
            self.image_layers = nn.ModuleList(kind(config) for _ in layers)
        self.gradient_checkpointing = False

    def forward(
        self,
        text_states: Float[Tensor, "T L D"],
        text_mask: Bool[Tensor, "T L"],
        image_states: Float[Tensor, "N P D"],
        pairs: Pairs | None = None,
        wanted: Wanted | None = None,
    ) -> FusedStates:
        """Fuse ``R`` pairs; ``pairs=None`` fuses text i with image i.

        ``text_mask`` is True at real tokens.
        """
        wanted = wanted or Wanted()
        if self.image_layers is None:
            return self._read_image(text_states, text_mask, image_states, pairs, wanted)
        return self._read_each_other(text_states, text_mask, image_states, pairs, wanted)

    def read_alone(
        self,
        text_states: Float[Tensor, "T L D"],
        text_mask: Bool[Tensor, "T L"],
        at: Int[Tensor, "M"] | None = None,
    ) -> Float[Tensor, "T L D"] | Float[Tensor, "M D"]:
        """Go on with texts as the whole text encoder would, no image read: ``text-layers``.

        ``at`` is as in ``Wanted``.
        """
        mask = text_mask[:, None, None, :]
        last = len(self.text_layers) - 1
        for i, layer in enumerate(self.text_layers):
            text_states = self._run(layer.read_self, text_states, mask, None)
            text_states = self._run(layer.go_on, text_states, at if i == last else None)
        return text_states

    def _read_image(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        image_states: Tensor,
        pairs: Pairs | None,
        wanted: Wanted,
    ) -> FusedStates:
        image_states = self.image_norm(image_states)
        mask = text_mask[:, None, None, :]
        last = len(self.text_layers) - 1
        for i, layer in enumerate(self.text_layers):
            keys, values = _rows(layer.cross.keys_values(image_states), pairs and pairs.image)
            cut = wanted if i == last else Wanted()
            text_states = self._run(layer.read_self, text_states, mask, cut.text)
            if i == 0 and pairs is not None:  # once per text until here, once per row from here
                text_states, mask = text_states.index_select(0, pairs.text), mask[pairs.text]
            text_states = self._run(layer.read_other, text_states, keys, values, None, cut.at)
        return FusedStates(self.text_norm(text_states), None)

    def _read_each_other(
        self,
        text_states: Tensor,
        text_mask: Tensor,
        image_states: Tensor,
        pairs: Pairs | None,
        wanted: Wanted,
    ) -> FusedStates:
        assert self.image_layers is not None
        mask = text_mask[:, None, None, :]
        last = len(self.text_layers) - 1
        for i, (reader, viewer) in enumerate(zip(self.text_layers, self.image_layers, strict=True)):
            # Both streams read the other one's states from before this layer, as in METER.
            cut = wanted if i == last else Wanted()
            of_image, own_text = reader.cross.keys_values(image_states), text_states
            text_states = self._run(reader.read_self, text_states, mask, cut.text)
            if i == 0 and pairs is not None:
                of_image = _rows(of_image, pairs.image)
                text_states = text_states.index_select(0, pairs.text)
            text_states = self._run(reader.read_other, text_states, *of_image, None, cut.at)
            if cut.image == 0:
                return FusedStates(self.text_norm(text_states), None)
            of_text = viewer.cross.keys_values(own_text)
            image_states = self._run(viewer.read_self, image_states, None, cut.image)
            if i == 0 and pairs is not None:
                of_text = _rows(of_text, pairs.text)
                image_states = image_states.index_select(0, pairs.image)
                mask = mask[pairs.text]
            image_states = self._run(viewer.read_other, image_states, *of_text, mask, None)
        return FusedStates(self.text_norm(text_states), self.image_norm(image_states))

    def text_attentions(self) -> list[Attention]:
        """Return what the text stream attends with, layer by layer, self before cross."""
        return [part for layer in self.text_layers for part in (layer.self_attention, layer.cross)]

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor | int | None) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return torch.utils.checkpoint.checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)


class Layer(nn.Module):
    """Self-attention, cross-attention, feed-forward; norms first (pre-norm, our choice)."""

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, config.num_attention_heads)
        across = ComparingAttention if config.fusion_input == "contrastive" else Attention
        self.cross = across(width, config.num_attention_heads)
        self.mlp = feed_forward(width)
        self.dropout = Dropout(config.dropout)

    def read_self(
        self, x: Float[Tensor, "R S D"], mask: Bool[Tensor, "R 1 1 S"] | None, queries: int | None
    ) -> Float[Tensor, "R Sq D"]:
        """Add self-attention of the first ``queries`` positions."""
        normed = self.self_norm(x)
        keys, values = self.self_attention.keys_values(normed)
        read = self.self_attention(normed[:, :queries], keys, values, mask)
        return x[:, :queries] + self.dropout(read)

    def read_other(
        self,
        x: Float[Tensor, "R S D"],
        keys: Float[Tensor, "R h Z d"],
        values: Float[Tensor, "R h Z d"],
        mask: Bool[Tensor, "R 1 1 Z"] | None,
        at: Int[Tensor, "M"] | None,
    ) -> Float[Tensor, "R S D"] | Float[Tensor, "M D"]:
        """Add cross-attention to the other stream, then go on."""
        return self.go_on(x + self.dropout(self.cross(self.cross_norm(x), keys, values, mask)), at)

    def go_on(
        self, x: Float[Tensor, "R S D"], at: Int[Tensor, "M"] | None
    ) -> Float[Tensor, "R S D"] | Float[Tensor, "M D"]:
        """Add the feed-forward layer, at the positions ``at`` (a flat index into ``R * S``)."""
        x = _picked(x, at)
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class PostNormLayer(Layer):
    """The same with norms last, as in BERT and METER."""

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        for norm in (self.self_norm, self.cross_norm, self.mlp_norm):
            norm.eps = 1e-12  # BERT's

    def read_self(
        self, x: Float[Tensor, "R S D"], mask: Bool[Tensor, "R 1 1 S"] | None, queries: int | None
    ) -> Float[Tensor, "R Sq D"]:
        """See ``Layer.read_self``."""
        keys, values = self.self_attention.keys_values(x)
        x = x[:, :queries]
        return self.self_norm(x + self.dropout(self.self_attention(x, keys, values, mask)))

    def read_other(
        self,
        x: Float[Tensor, "R S D"],
        keys: Float[Tensor, "R h Z d"],
        values: Float[Tensor, "R h Z d"],
        mask: Bool[Tensor, "R 1 1 Z"] | None,
        at: Int[Tensor, "M"] | None,
    ) -> Float[Tensor, "R S D"] | Float[Tensor, "M D"]:
        """See ``Layer.read_other``."""
        x = self.cross_norm(x + self.dropout(self.cross(x, keys, values, mask)))
        return self.go_on(x, at)

    def go_on(
        self, x: Float[Tensor, "R S D"], at: Int[Tensor, "M"] | None
    ) -> Float[Tensor, "R S D"] | Float[Tensor, "M D"]:
        """See ``Layer.go_on``."""
        x = _picked(x, at)
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class TextLayer(PostNormLayer):
    """A layer of the text encoder with cross-attention put in between its two halves.

    What is put in has its norm before it, so that what it adds is small at first and the layer
    starts as the encoder's own; ALBEF's has its norm behind it.
    """

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        text = config.text_config
        activation = ACT2FN[text.hidden_act]
        self.mlp = feed_forward(config.hidden_size, text.intermediate_size, activation)
        for norm in (self.self_norm, self.cross_norm, self.mlp_norm):
            norm.eps = text.layer_norm_eps

    read_other = Layer.read_other  # with its norm before it


def _rows(tensors: tuple[Tensor, Tensor], index: Int[Tensor, "R"] | None) -> tuple[Tensor, Tensor]:
    if index is None:
        return tensors
    # Flat, since a CPU adds up the gradients of whole rows, but of split heads number by number.
    keys, values = (t.flatten(1).index_select(0, index).unflatten(1, t.shape[1:]) for t in tensors)
    return keys, values


def _picked(x: Float[Tensor, "R S D"], at: Int[Tensor, "M"] | None) -> Tensor:
    return x if at is None else x.flatten(0, 1).index_select(0, at)
