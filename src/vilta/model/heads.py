"""The heads: masked words, match or no match, labels, and the contrastive space."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

# ALBEF and CLIP start at temperature 0.07; CLIP keeps it above 0.01 (arXiv 2103.00020).
INITIAL_TEMPERATURE = 0.07
LOWEST_TEMPERATURE = 0.01


class MaskedWordHead(nn.Module):
    """Fused states to vocabulary logits, tied to the text encoder's word embeddings."""

    def __init__(self, width: int, embedding_width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, embedding_width)
        self.norm = nn.LayerNorm(embedding_width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(
        self, states: Float[Tensor, "M D"], embeddings: Float[Tensor, "V C"]
    ) -> Float[Tensor, "M V"]:
        """Score every word of the vocabulary at ``M`` positions."""
        return F.linear(self.norm(F.gelu(self.dense(states))), embeddings, self.bias)


class OwnWordHead(MaskedWordHead):
    """A word head with output weights of its own, as in METER."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__(width, width, vocabulary)
        self.norm.eps = 1e-12  # BERT's
        self.words = nn.Linear(width, vocabulary, bias=False)

    def forward(
        self, states: Float[Tensor, "M D"], embeddings: Float[Tensor, "V C"]
    ) -> Float[Tensor, "M V"]:
        """Score every word; the text encoder's ``embeddings`` are not read."""
        return super().forward(states, self.words.weight)


class FirstTokenPooler(nn.Module):
    """The first token of each stream through a layer of its own, as in BERT and METER."""

    def __init__(self, width: int, streams: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Linear(width, width) for _ in range(streams))

    def forward(self, *streams: Float[Tensor, "R _ D"]) -> Float[Tensor, "R S"]:
        """Return the streams' vectors side by side."""
        vectors = [layer(x[:, 0]) for layer, x in zip(self.dense, streams, strict=True)]
        return torch.cat(vectors, dim=-1).tanh()


class StateAddition(nn.Linear):
    """What the image adds to a text encoder's states before its own language-model head reads them.

    Zero at first: then the words are those that the text alone expects.
    """


class MatchHead(nn.Module):
    """Pooled states to two logits: no match (0), match (1)."""

    def __init__(self, width: int, streams: int) -> None:
        super().__init__()
        self.dense = nn.Linear(streams * width, width)
        self.out = nn.Linear(width, 2)

    def forward(self, pooled: Float[Tensor, "R S"]) -> Float[Tensor, "R 2"]:
        """Classify each row."""
        return self.out(F.gelu(self.dense(pooled)))


class ClassificationHead(nn.Module):
    """Pooled states to the labels of a task: the two layers of ViLT and METER's heads."""

    def __init__(self, pooled: int, width: int, labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(pooled, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.out = nn.Linear(2 * width, labels)

    def forward(self, pooled: Float[Tensor, "R S"]) -> Float[Tensor, "R A"]:
        """Score the labels of each row."""
        return self.out(F.gelu(self.norm(self.dense(pooled))))


class LearnedTemperature(nn.Module):
    """What a cosine is divided by before it is a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(INITIAL_TEMPERATURE)))

    def scale(self) -> Float[Tensor, ""]:
        """Return the inverse of the learned temperature, clamped."""
        return self.log_scale.clamp(max=-math.log(LOWEST_TEMPERATURE)).exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Clamp the temperature to its bound, to be called after each optimizer step.

        Beyond the bound the clamp passes no gradient, so it would learn no more.
        """
        self.log_scale.clamp_(max=-math.log(LOWEST_TEMPERATURE))


class ContrastiveHead(LearnedTemperature):
    """The layers that lead pooled image and text states into one space, see ``unit_vectors``."""

    def __init__(self, image_width: int, text_width: int, width: int) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, width)
        self.text = nn.Linear(text_width, width)


def unit_vectors(layer: nn.Linear, pooled: Float[Tensor, "B C"]) -> Float[Tensor, "B W"]:
    """Project in the weights' own format (float32 by default) despite autocast, and normalise.

    A low temperature multiplies what bf16 rounds here: the gradient was 5 to 8 % off at 0.01.
    """
    with torch.autocast(pooled.device.type, enabled=False):
        return F.normalize(layer(pooled.to(layer.weight.dtype)).float(), dim=-1)


def pool(
    states: Float[Tensor, "R S D"], mask: Bool[Tensor, "R L"] | None, how: str
) -> Float[Tensor, "R D"]:
    """Reduce a sequence to its first token or to the mean over real tokens.

    For the mean ``S`` is ``L``; for the first token the states may be cut short.
    """
    if how == "first":
        return states[:, 0]
    if mask is None:
        return states.mean(dim=1)
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
