"""Masking of whole words."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vilta.objectives.vocabulary import Vocabulary


def mask_words(
    input_ids: Int[Tensor, "B L"],
    word_ids: Int[Tensor, "B L"],
    noise: Float[Tensor, "B L 2"],
    vocabulary: Vocabulary,
    *,
    rate: float = 0.15,
    content_weight: float = 1.0,
    scheme: str = "mask",
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Mask whole words; return the masked captions and which tokens were selected.

    A fraction ``rate`` of each caption's words (rounded, at least one) is drawn without
    replacement; a content word is ``content_weight`` times as likely to be drawn as a stop-word.
    All pieces of a drawn word are replaced: by the mask token, or with ``scheme="80-10-10"`` by
    the mask token, a random token or the token itself (arXiv 1810.04805). ``word_ids`` number a
    caption's words, each a run of tokens, in any way, and are -1 elsewhere. ``noise`` is uniform in
    [0, 1) and the only source of randomness, so the result is a function of the arguments. A
    caption without words is returned unchanged.
    """
    is_word = word_ids >= 0
    first = is_word & (word_ids != word_ids.roll(1, dims=1))
    first[:, 0] = is_word[:, 0]

    # Exponential race: taking the smallest -log(u)/w is a draw without replacement with odds w.
    weights = torch.where(vocabulary.content[input_ids], content_weight, 1.0)  # [B, L]
    race = -torch.log(noise[..., 0].clamp(min=1e-12)) / weights  # [B, L]
    rank = race.masked_fill(~first, torch.inf).argsort(dim=1).argsort(dim=1)  # [B, L]
    count = (first.sum(dim=1, keepdim=True) * rate + 0.5).floor().clamp(min=1)  # [B, 1]
    chosen = first & (rank < count)  # [B, L], first pieces only

    # Spread the choice from a word's first piece to all of its pieces; column 0 holds non-words.
    # Counted anew: numbers have gaps where a tokenizer leaves out words that it does not know.
    number = first.cumsum(dim=1) * is_word  # [B, L]
    by_word = torch.zeros(len(input_ids), input_ids.shape[1] + 1, dtype=torch.bool)
    by_word = by_word.to(input_ids.device)
    by_word.scatter_(1, torch.where(chosen, number, 0), True)
    selected = by_word.gather(1, number) & is_word  # [B, L]

    hidden = torch.full_like(input_ids, vocabulary.mask_id)
    if scheme == "80-10-10":
        dice = noise[..., 1]
        # Within [0.8, 0.9) the same number, rescaled to [0, 1), picks the random token.
        pick = ((dice - 0.8) * 10 * len(vocabulary.regular)).long()
        drawn = vocabulary.regular[pick.clamp(0, len(vocabulary.regular) - 1)]
        hidden = torch.where(dice < 0.8, hidden, torch.where(dice < 0.9, drawn, input_ids))
    return torch.where(selected, hidden, input_ids), selected
