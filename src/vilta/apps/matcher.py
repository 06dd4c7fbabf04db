"""``Matcher``: a trained model in Python, to embed, match, rank, proofread and fill."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.apps.heatmap import HeatMaps, heat_maps
from vilta.apps.image_input import ImageInput, as_list, pixels_of
from vilta.apps.proofreading import Guess, Proofreading, fill_blanks, proofread
from vilta.apps.released import Released, has_trained, load_released, require_trained
from vilta.metrics.calibration import calibrated
from vilta.model.fusion import Pairs
from vilta.model.modeling import WithMatching
from vilta.training.precision import choose_device

T = TypeVar("T")
PAIRS_PER_CALL = 256
"""Pairs in one fusion call; our choice."""


@dataclass(frozen=True)
class Ranked:
    """A candidate: its index in the input, its score, and the probability of a match."""

    index: int
    score: float
    """Scaled cosine, log-odds of a match, or their sum; comparable within one query."""
    probability: float
    """Calibrated; NaN for candidates that were not re-ranked, and for runs without matching."""


class EncodedTexts(NamedTuple):
    """``T`` texts after the text encoder, padded to the longest."""

    states: Float[Tensor, "T L C"]
    attention_mask: Int[Tensor, "T L"]


class Matcher:
    """Compares images with texts: embeds, matches, ranks, proofreads and fills.

    ``source`` is a run folder (``runs/mine``) or a released model folder.
    Images are paths, PIL images, arrays or bytes (``ImageInput``), one or many; everything runs in
    batches of ``batch_size`` on ``device`` (``auto``, ``cpu``, ``cuda``, ``mps``).

        matcher = Matcher("runs/mine")
        matcher.match("photo.jpg", ["a dog on a beach", "a cat on a sofa"])  # array([0.97, 0.01])

    Raises ``ValueError`` in one line for a folder without a model, an image that cannot be read,
    or an output that the model was not trained for.
    """

    def __init__(
        self, source: str | os.PathLike[str], *, device: str = "auto", batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        released: Released = load_released(source)
        self.name, self.batch_size = str(source), batch_size
        self.model: WithMatching = released.model.to(choose_device(device)).eval()
        self.tokenizer: PreTrainedTokenizerBase = released.tokenizer

    @property
    def contrast(self) -> bool:
        """Whether the run trained the contrastive space."""
        return has_trained("contrast", self.model)

    @property
    def matching(self) -> bool:
        """Whether the run trained matching."""
        return has_trained("matching", self.model)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def image_size(self) -> int:
        """Side of the square that the model sees, in pixels."""
        return self.model.config.image_size

    @property
    def calibrated(self) -> bool:
        """Whether probabilities were calibrated on held-out pairs."""
        return bool(self.model.config.calibrated_on)

    @property
    def search_threshold(self) -> float:
        """Probability from which on a photo counts as found."""
        return self.model.config.search_threshold

    @torch.no_grad()
    def embed_images(self, images: ImageInput | Sequence[ImageInput]) -> Float32[np.ndarray, "N W"]:
        """Return unit vectors; their products with those of texts are cosine similarities."""
        require_trained("contrast", self.model, self.name)
        vectors = [self.model.embed_image(states) for states in self.image_batches(images)]
        return _joined(vectors, self.model.config.contrastive_width)

    @torch.no_grad()
    def embed_texts(self, texts: str | Sequence[str]) -> Float32[np.ndarray, "T W"]:
        """Return unit vectors in the space of ``embed_images``."""
        require_trained("contrast", self.model, self.name)
        batches = map(self.encode_texts, _chunks(_texts(texts), self.batch_size))
        vectors = [self.model.embed_text(*encoded) for encoded in batches]
        return _joined(vectors, self.model.config.contrastive_width)

    @torch.no_grad()
    def embed_pixels(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float32[np.ndarray, "B W"]:
        """Return the unit vectors of decoded images."""
        require_trained("contrast", self.model, self.name)
        return self.model.embed_image(self.encode_pixels(pixels)).cpu().numpy()

    def match(
        self, images: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]
    ) -> Float32[np.ndarray, "N"]:
        """Return the probability (0 to 1) that image i and text i match.

        A single image is paired with every text, and a single text with every image; otherwise
        there must be as many images as texts.
        """
        return self.probability(self.log_odds(images, texts))

    def log_odds(
        self, images: ImageInput | Sequence[ImageInput], texts: str | Sequence[str]
    ) -> Float32[np.ndarray, "N"]:
        """Return the uncalibrated log-odds of the match head, for the pairs of ``match``."""
        pictures, sentences = as_list(images), _texts(texts)
        count = max(len(pictures), len(sentences)) if pictures and sentences else 0
        if not {len(pictures), len(sentences)} <= {1, count}:
            raise ValueError(
                f"{len(pictures)} images cannot be paired with {len(sentences)} texts; give one "
                "image, one text, or equal numbers"
            )
        scores = []
        for start in range(0, count, self.batch_size):
            rows = slice(start, start + self.batch_size)
            shown = pictures if len(pictures) == 1 else pictures[rows]
            said = sentences if len(sentences) == 1 else sentences[rows]
            images_, texts_ = self.encode_images(shown), self.encode_texts(said)
            own = torch.arange(min(self.batch_size, count - start), device=self.device)
            pairs = Pairs(text=own % len(said), image=own % len(shown))
            scores.append(self.pair_log_odds(images_, texts_, pairs).cpu())
        return torch.cat(scores).numpy() if scores else np.empty(0, np.float32)

    def probability(self, log_odds: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
        """Turn log-odds into probabilities, calibrated if the model was."""
        config = self.model.config
        return calibrated(log_odds, config.match_temperature, config.match_bias)

    def rank(
        self,
        query: str | ImageInput,
        candidates: Sequence[str] | Sequence[ImageInput],
        *,
        top_k: int | None = None,
        rerank: int = 50,
    ) -> list[Ranked]:
        """Rank images for a text, or texts for an image, best first.

        Contrast ranks all candidates, then matching and contrast together re-rank the ``rerank``
        best, as in the ``combined`` stage of the evaluation. A string as ``query`` is a text whose
        candidates are images; give an image query as a ``Path``, picture or array.
        """
        if isinstance(query, str):
            pictures, texts = self.encode_images(as_list(candidates)), self.encode_texts([query])
        else:
            pictures, texts = self.encode_images([query]), self.encode_texts(list(candidates))
        return self.rank_encoded(pictures, texts, top_k=top_k, rerank=rerank)

    @torch.no_grad()
    def rank_encoded(
        self,
        images: Float[Tensor, "N P C"],
        texts: EncodedTexts,
        *,
        top_k: int | None = None,
        rerank: int = 50,
    ) -> list[Ranked]:
        """Rank encoded candidates for one encoded query; see ``rank``."""
        count = max(len(images), len(texts.states))
        if count == 0:
            return []
        similarity = torch.zeros(count, device=self.device)
        if self.contrast:
            similarity = self.model.similarity(images, *texts).flatten()
        order = similarity.argsort(descending=True, stable=True)
        again = order[: rerank if self.contrast else count] if self.matching else order[:0]
        nobody = torch.zeros_like(again)
        pairs = Pairs(text=nobody, image=again) if len(images) == count else Pairs(again, nobody)
        odds = self.pair_log_odds(images, texts, pairs)
        combined = odds + similarity[again]
        best = combined.argsort(descending=True, stable=True)
        chances = self.probability(odds.cpu().numpy())
        ranked = [Ranked(int(again[i]), float(combined[i]), float(chances[i])) for i in best]
        ranked += [Ranked(int(i), float(similarity[i]), float("nan")) for i in order[len(again) :]]
        return ranked[:top_k]

    def proofread(self, image: ImageInput, caption: str) -> Proofreading:
        """Check each word of a caption against the image, and suggest replacements."""
        require_trained("matching", self.model, self.name)
        return proofread(self.model, self.tokenizer, self.encode_images([image]), caption)

    def fill(self, image: ImageInput, text: str, *, top_k: int = 5) -> list[list[Guess]]:
        """Fill each blank of ``text`` (``___`` or the mask token) given the image."""
        states = self.encode_images([image])
        return fill_blanks(self.model, self.tokenizer, states, text, top_k)

    def heat_maps(self, image: ImageInput, caption: str) -> HeatMaps:
        """Return a heat map per word: the image regions that its contribution comes from."""
        require_trained("matching", self.model, self.name)
        pixels = pixels_of([image], self.image_size).to(self.device)
        return heat_maps(self.model, self.tokenizer, pixels, caption)

    def image_batches(
        self, images: ImageInput | Sequence[ImageInput]
    ) -> Iterator[Float[Tensor, "B P C"]]:
        """Yield the image encoder's states batch by batch."""
        for chunk in _chunks(as_list(images), self.batch_size):
            yield self.encode_pixels(pixels_of(chunk, self.image_size))

    def encode_images(self, images: Sequence[ImageInput]) -> Float[Tensor, "N P C"]:
        """Return the image encoder's states of all images at once."""
        batches = list(self.image_batches(images))
        if not batches:
            raise ValueError("no images were given")
        return torch.cat(batches)

    @torch.no_grad()
    def encode_pixels(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B P C"]:
        """Return the image encoder's states of uint8 pixels ``[B, 3, S, S]``."""
        return self.model.vilta.encode_image(pixels.to(self.device))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """Return the text encoder's states; texts beyond the model's limit are cut."""
        if not texts:
            raise ValueError("no texts were given")
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.model.config.max_text_tokens,
            return_tensors="pt",
        ).to(self.device)
        mask = tokens["attention_mask"]
        return EncodedTexts(self.model.vilta.encode_text(tokens["input_ids"], mask), mask)

    @torch.no_grad()
    def pair_log_odds(
        self, images: Float[Tensor, "N P C"], texts: EncodedTexts, pairs: Pairs
    ) -> Float32[Tensor, "R"]:
        """Return the log-odds of a match for pairs of encoded images and texts."""
        if len(pairs.text) == 0:
            return torch.zeros(0, device=self.device)
        require_trained("matching", self.model, self.name)
        scores = []
        for text, image in zip(*(part.split(PAIRS_PER_CALL) for part in pairs), strict=True):
            logits = self.model.match(*texts, images, Pairs(text, image)).float()
            scores.append(logits[:, 1] - logits[:, 0])
        return torch.cat(scores)


def _texts(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _joined(vectors: list[Tensor], width: int) -> Float32[np.ndarray, "N W"]:
    if not vectors:
        return np.empty((0, width), np.float32)
    return torch.cat(vectors).cpu().numpy()
