"""Proofreading: words of a caption that the image does not support, and replacements.

Each word is masked in turn. The masked-word head gives its probability with the image, the text
encoder's own head the probability without. Words that the first head prefers are tried as
replacements, and matching measures how much they raise the log-odds of the caption. The
``suspicion`` of a word adds up two kinds of evidence, both log-likelihood ratios: what matching
gains by the replacement, and how much less likely the image makes the word. Words above a threshold
are flagged. It is stored with the model, and set on held-out captions so that ``UNFLAGGED`` of them
have no flagged word (``flag_threshold``, as in split conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.apps.words import Word, find_words, masked_rows, with_capital_of
from vilta.model import ViltaForPreTraining
from vilta.model.fusion import Pairs
from vilta.model.modeling import WithMatching
from vilta.objectives.vocabulary import Vocabulary, read_vocabulary

BLANK = "___"
"""Stands for a word to be filled in."""
ALTERNATIVES = 4
"""Replacements tried for each word; our choice."""
THRESHOLD = 2.0
"""Suspicion above which a word is flagged by a model without a threshold of its own; our choice."""
UNFLAGGED = 0.9
"""Share of held-out captions in which no word may be flagged; our choice."""


class Guess(NamedTuple):
    """A word and its probability with the image (0 to 1)."""

    word: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class WordCheck:
    """The check of one word."""

    word: str
    start: int
    end: int
    with_image: float
    """Log-odds of the word given the other words and the image."""
    without_image: float
    """Log-odds given the other words alone."""
    instead: str
    """The best replacement among those tried; empty if there is none."""
    better: float
    """Gain in log-odds of a match with ``instead``; 0 if there is none."""
    suspicion: float
    """``better``, calibrated, plus log p of the word without the image minus log p with it."""
    flagged: bool
    """``suspicion`` is above the model's threshold, and ``instead`` makes a better match."""


class NoWordHead(ValueError):
    """The model was fine-tuned for a task, and predicts no words."""


class NoBlank(ValueError):
    """A text has no blank, or none that the model reads."""


@dataclass(frozen=True, kw_only=True)
class Proofreading:
    """A caption, word by word."""

    caption: str
    words: tuple[WordCheck, ...]

    @property
    def flagged(self) -> tuple[WordCheck, ...]:
        """The flagged words, the most suspicious first."""
        return tuple(sorted((w for w in self.words if w.flagged), key=lambda w: -w.suspicion))

    @property
    def highest_suspicion(self) -> float:
        """The suspicion of the most suspicious word that may be flagged; -inf if none may."""
        return max((w.suspicion for w in self.words if w.better > 0), default=-math.inf)

    @property
    def corrected(self) -> str:
        """The caption with the most suspicious flagged word replaced, if there is one."""
        for worst in self.flagged[:1]:
            return self.caption[: worst.start] + worst.instead + self.caption[worst.end :]
        return self.caption


@torch.no_grad()
def proofread(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "1 P C"],
    caption: str,
    vocabulary: Vocabulary | None = None,
) -> Proofreading:
    """Check each word of ``caption`` against an encoded image.

    ``vocabulary`` is that of ``read_vocabulary``, built here if not given. Raises
    ``ValueError`` for a caption without words, or a model without a masked-word head.
    """
    model = _with_words(model)
    if vocabulary is None:
        vocabulary = model_vocabulary(model, tokenizer)
    tokens, words = find_words(tokenizer, caption, model.config.max_text_tokens)
    tokens = tokens.to(model.device)
    rows = masked_rows(tokenizer, tokens, words)
    at = [row * rows.shape[1] + place for row, word in enumerate(words) for place in word.tokens]
    both = _word_logits(model, rows, image_states, torch.tensor(at, device=rows.device))
    with_image, alone = (logits.split([len(word.tokens) for word in words]) for logits in both)
    own, own_alone = (_of_word(logits, tokens, words) for logits in (with_image, alone))
    likeliest = _alternatives(with_image, own, tokens, words, vocabulary)
    rise = _match_rise(model, tokenizer, image_states, caption, words, likeliest)
    threshold = model.config.suspicion_threshold
    threshold = THRESHOLD if threshold is None else threshold
    checks = []
    for i, word in enumerate(words):
        best = max(rise[i], key=rise[i].__getitem__, default="")
        better = rise[i].get(best, 0.0)
        suspicion = better / model.config.match_temperature + own_alone[i] - own[i]
        checks.append(
            WordCheck(
                word=word.text,
                start=word.start,
                end=word.end,
                with_image=_log_odds(own[i]),
                without_image=_log_odds(own_alone[i]),
                instead=best,
                better=better,
                suspicion=suspicion,
                flagged=better > 0 and suspicion > threshold,
            )
        )
    return Proofreading(caption=caption, words=tuple(checks))


@torch.no_grad()
def fill_blanks(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "1 P C"],
    text: str,
    top_k: int,
) -> list[list[Guess]]:
    """Return the ``top_k`` likeliest words for each blank of ``text``, given the encoded image.

    Raises ``NoBlank`` if there is none.
    """
    model = _with_words(model)
    longest = model.config.max_text_tokens
    marked = text.replace(BLANK, str(tokenizer.mask_token))
    tokens = tokenizer(marked, truncation=True, max_length=longest, return_tensors="pt")
    ids = tokens["input_ids"].to(model.device)
    at = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0]
    if len(at) == 0:
        raise NoBlank(f"no blank in {text!r}; write {BLANK} where a word is missing")
    with_image, _ = _word_logits(model, ids, image_states, at)
    chances = with_image.softmax(dim=1).topk(min(top_k, with_image.shape[-1]), dim=1)
    return [
        [Guess(tokenizer.decode([w]).strip(), p) for w, p in zip(*row, strict=True)]
        for row in zip(chances.indices.tolist(), chances.values.tolist(), strict=True)
    ]


def model_vocabulary(model: ViltaForPreTraining, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Return the vocabulary of a model, on its device."""
    size = len(model.get_input_embeddings().weight)
    return read_vocabulary(tokenizer, size).to(model.device)


def flag_threshold(suspicions: Sequence[float]) -> float:
    """Return the threshold that leaves ``UNFLAGGED`` of held-out captions without a flagged word.

    ``suspicions`` holds the highest suspicion of each of ``n >= 1`` captions. The threshold is the
    ``ceil((n + 1) * UNFLAGGED)``-th smallest, as in split conformal prediction.
    """
    ordered = sorted(suspicions)
    place = math.ceil((len(ordered) + 1) * UNFLAGGED)
    return ordered[min(place, len(ordered)) - 1]


def _with_words(model: WithMatching) -> ViltaForPreTraining:
    if not isinstance(model, ViltaForPreTraining):
        raise NoWordHead(
            f"{type(model).__name__} has no masked-word head; use the pre-training run"
        )
    return model


def _word_logits(
    model: ViltaForPreTraining,
    rows: Int[Tensor, "R L"],
    image_states: Float[Tensor, "1 P C"],
    at: Int[Tensor, "M"],
) -> tuple[Float[Tensor, "M V"], Float[Tensor, "M V"]]:
    """Vocabulary logits at ``at``, a flat index into ``R * L``, with the image and without it.

    At every position they would be a gigabyte for a caption of 50 tokens and RoBERTa's words.
    """
    mask = torch.ones_like(rows)
    text_states = model.vilta.encode_text(rows, mask)
    pairs = Pairs(torch.arange(len(rows), device=rows.device), rows.new_zeros(len(rows)))
    fused = model.vilta.fuse(text_states, mask, image_states, pairs).text
    alone = model.predict_words_from_text(model.vilta.read_alone(text_states, mask, at))
    with_image = model.predict_words(fused.flatten(0, 1)[at], text_states.flatten(0, 1)[at])
    return with_image.float(), alone.float()


def _of_word(
    logits: Sequence[Float[Tensor, "_ V"]], tokens: Int[Tensor, "1 L"], words: Sequence[Word]
) -> list[float]:
    """Log-probability of each word, summed over the ``logits`` at its tokens, which are masked."""
    found = []
    for row, word in zip(logits, words, strict=True):
        log_p = row.log_softmax(dim=1)
        found.append(float(log_p.gather(1, tokens[0, list(word.tokens), None]).sum()))
    return found


def _alternatives(
    logits: Sequence[Float[Tensor, "_ V"]],
    own: Sequence[float],
    tokens: Int[Tensor, "1 L"],
    words: Sequence[Word],
    vocabulary: Vocabulary,
) -> list[list[int]]:
    """Return whole words more probable than the word itself that are not inflections of it."""
    found = []
    for row, word, log_p in zip(logits, words, own, strict=True):
        first = word.tokens[0]
        scores = row[0].log_softmax(dim=0)
        allowed = vocabulary.whole & (vocabulary.stem != vocabulary.stem[tokens[0, first]])
        best = scores.masked_fill(~allowed, -torch.inf).topk(ALTERNATIVES)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append([token for token, score in pairs if score > log_p])
    return found


def _match_rise(
    model: ViltaForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "1 P C"],
    caption: str,
    words: Sequence[Word],
    alternatives: Sequence[Sequence[int]],
) -> list[dict[str, float]]:
    """For each word, the gain in log-odds of a match by each alternative."""
    texts, owner = [caption], []
    for i, (word, tokens) in enumerate(zip(words, alternatives, strict=True)):
        for token in tokens:
            other = with_capital_of(word.text, tokenizer.decode([token]).strip())
            texts.append(caption[: word.start] + other + caption[word.end :])
            owner.append((i, other))
    encoded = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=model.config.max_text_tokens,
        return_tensors="pt",
    ).to(model.device)
    mask = encoded["attention_mask"]
    text_states = model.vilta.encode_text(encoded["input_ids"], mask)
    pairs = Pairs(torch.arange(len(texts), device=mask.device), mask.new_zeros(len(texts)))
    logits = model.match(text_states, mask, image_states, pairs).float()
    odds = (logits[:, 1] - logits[:, 0]).tolist()
    rise: list[dict[str, float]] = [{} for _ in words]
    for (i, other), value in zip(owner, odds[1:], strict=True):
        rise[i][other] = value - odds[0]
    return rise


def _log_odds(log_probability: float) -> float:
    """Return ``log(p / (1 - p))``, finite."""
    p = min(max(math.exp(log_probability), 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))
