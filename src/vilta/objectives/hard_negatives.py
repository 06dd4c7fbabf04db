"""Hard negatives: fluent captions that are wrong about the image, from the current text encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vilta.objectives.sampling import gumbel_like
from vilta.objectives.vocabulary import Vocabulary


class WordFilter(NamedTuple):
    """Whose opinion tells which words may be true, and how much of the original's is enough."""

    logits: Float[Tensor, "M V"]
    """Logits or log-probabilities at the masked positions."""
    ratio: float

    def plausible(self, original: Int[Tensor, "M"]) -> Bool[Tensor, "M V"]:
        """Return the words with at least ``ratio`` times the original's probability.

        Where the original itself is impossible, any word that is possible; an impossible word
        (minus infinity) never.
        """
        # Compared as logits: the normaliser is the same on both sides.
        bar = self.logits.gather(1, original[:, None]).float() + math.log(self.ratio)
        return (self.logits.float() >= bar) & (self.logits > -torch.inf)


@dataclass(frozen=True, kw_only=True)
class SynthesisedNegatives:
    """One rewritten caption per row, where the row has a word that can be replaced."""

    input_ids: Int[Tensor, "B L"]
    """The caption with some words replaced; unchanged where ``valid`` is False."""
    changed: Bool[Tensor, "B L"]
    valid: Bool[Tensor, "B"]
    removed: Float[Tensor, ""]
    """Share of the likeliest candidate words that the filter removed; logged."""

    def statistics(self) -> dict[str, Tensor]:
        """Return what is logged each step."""
        valid = self.valid.float()
        return {
            "share": valid.mean(),
            "changed_words": self.changed.sum() / valid.sum().clamp(min=1),
            "removed_by_filter": self.removed,
        }


def synthesise_negatives(
    input_ids: Int[Tensor, "B L"],
    word_ids: Int[Tensor, "B L"],
    masked_positions: Int[Tensor, "M"],
    text_logits: Float[Tensor, "M V"],
    vocabulary: Vocabulary,
    *,
    filters: Sequence[WordFilter] = (),
    candidates: int = 20,
    min_p: float = 0.1,
    temperature: float = 1.0,
    max_changes: int = 1,
) -> SynthesisedNegatives:
    """Rewrite one to ``max_changes`` of each caption's masked words from its context.

    ``text_logits`` are the text encoder's own language-model logits at the masked positions. A
    replacement must be

    - a whole word that is neither the original nor an inflection of it;
    - at least ``min_p`` times as probable as the text's most probable word (min-p sampling, arXiv
      2407.01082: where the context leaves one choice, the draw would otherwise be nonsense);
    - plausible to none of the ``filters``, for it may be true.

    One of the ``candidates`` most probable allowed words is sampled. Only words that are a single
    token are rewritten, so no word is left half replaced. All other tokens, other masked words
    included, keep their original. Runs on the device without a loop over rows; randomness comes
    from torch's global generator.
    """
    rows, length = input_ids.shape
    original = input_ids.flatten()[masked_positions]  # [M]
    if len(original) == 0:
        nothing = torch.zeros_like(input_ids, dtype=torch.bool)
        return SynthesisedNegatives(
            input_ids=input_ids,
            changed=nothing,
            valid=nothing.any(1),
            removed=text_logits.new_zeros(()),
        )

    allowed = fitting_words(input_ids, word_ids, masked_positions, text_logits, vocabulary, min_p)
    plausible = torch.zeros_like(allowed)
    for word_filter in filters:
        plausible |= word_filter.plausible(original)
    removed = _removed(text_logits, allowed, plausible, candidates)
    words, found = _draw(text_logits, allowed & ~plausible, candidates, temperature)  # [M] each

    # In each caption, a random 1 to max_changes of the masked words that have a candidate change.
    order = torch.full((rows * length,), torch.inf, device=input_ids.device)
    lots = torch.rand(len(original), device=input_ids.device).masked_fill(~found, torch.inf)  # [M]
    order[masked_positions] = lots
    order = order.view(rows, length)  # [B, L]
    quota = torch.randint(1, max_changes + 1, (rows, 1), device=input_ids.device)  # [B, 1]
    changed = (order.argsort(dim=1).argsort(dim=1) < quota) & order.isfinite()  # [B, L]

    rewritten = input_ids.flatten().clone()  # [B * L]
    rewritten[masked_positions] = words
    rewritten = torch.where(changed, rewritten.view(rows, length), input_ids)  # [B, L]
    return SynthesisedNegatives(
        input_ids=rewritten, changed=changed, valid=changed.any(dim=1), removed=removed
    )


def fitting_words(
    input_ids: Int[Tensor, "B L"],
    word_ids: Int[Tensor, "B L"],
    masked_positions: Int[Tensor, "M"],
    text_logits: Float[Tensor, "M V"],
    vocabulary: Vocabulary,
    min_p: float,
) -> Bool[Tensor, "M V"]:
    """Return the words that may replace the original ones, before any filter is asked.

    See ``synthesise_negatives``; none where the original is not a single-token word.
    """
    original = input_ids.flatten()[masked_positions]  # [M]
    other = vocabulary.whole[None] & (vocabulary.stem[None] != vocabulary.stem[original, None])
    likeliest = text_logits.masked_fill(~vocabulary.whole, -torch.inf).amax(1, keepdim=True)
    expected = text_logits >= likeliest + math.log(max(min_p, 1e-30))
    rewritable = vocabulary.whole[original] & _single_token(word_ids, masked_positions)
    return other & rewritable[:, None] & expected


def _single_token(word_ids: Int[Tensor, "B L"], positions: Int[Tensor, "M"]) -> Bool[Tensor, "M"]:
    """Return whether the word at each position is a single token."""
    edge = word_ids.new_full((len(word_ids), 1), -2)
    padded = torch.cat([edge, word_ids, edge], dim=1)
    alone = (padded[:, 1:-1] != padded[:, :-2]) & (padded[:, 1:-1] != padded[:, 2:])
    return alone.flatten()[positions]


def _removed(
    text_logits: Float[Tensor, "M V"],
    allowed: Bool[Tensor, "M V"],
    plausible: Bool[Tensor, "M V"],
    candidates: int,
) -> Float[Tensor, ""]:
    """Return the share of plausible words among the likeliest allowed ones."""
    scores = text_logits.masked_fill(~allowed, -torch.inf)
    top = scores.topk(min(candidates, scores.shape[1]), dim=1)
    real = top.values.isfinite()
    return (plausible.gather(1, top.indices) & real).sum() / real.sum().clamp(min=1)


def _draw(
    logits: Float[Tensor, "M V"],
    allowed: Bool[Tensor, "M V"],
    candidates: int,
    temperature: float,
) -> tuple[Int[Tensor, "M"], Bool[Tensor, "M"]]:
    """Sample a word per position from the top allowed ones; False where none is allowed."""
    scores = logits.float().masked_fill(~allowed, -torch.inf)
    top = scores.topk(min(candidates, scores.shape[1]), dim=1)
    pick = (top.values / temperature + gumbel_like(top.values)).argmax(dim=1, keepdim=True)
    return top.indices.gather(1, pick)[:, 0], top.values[:, 0].isfinite()
