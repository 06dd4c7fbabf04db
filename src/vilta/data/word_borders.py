"""Which tokens make a word, also in writing without spaces; and words that no token represents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

NO_SPACES = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "]"
)
"""Letters of the scripts that put no space between words."""
LOOKED = 1000
"""Texts in which unknown words are counted (our choice)."""
WORTH_TELLING = 0.01
"""Share of unknown tokens above which the user is warned (our choice)."""


def word_indices(encoded: Any, row: int, text: str) -> list[int]:
    """Return for each token of a text the number of its word; -1 for special tokens.

    Also -1 where truncation has cut a part of the word away: another in its place would be a part.
    What a tokenizer takes for one word is a whole sentence in scripts without spaces; there each
    token is a word of its own, or all tokens of one letter (bytes of it) together.
    """
    words = [-1 if word is None else word for word in encoded.word_ids(row)]
    cut = {
        (word, start)
        for part in encoded.encodings[row].overflowing
        for word, (start, _) in zip(part.word_ids, part.offsets, strict=True)
    }
    cut_words = {word for word, _ in cut}
    if NO_SPACES.search(text) is None:
        return [-1 if word in cut_words else word for word in words]
    numbers: list[int] = []
    number, before, place = -1, -1, -1
    for token, word in enumerate(words):
        if word < 0:
            numbers.append(-1)
            continue
        start = encoded.token_to_chars(row, token).start
        borderless = NO_SPACES.search(text[slice(*encoded.word_to_chars(row, word))]) is not None
        if word != before or (borderless and start != place):
            number += 1
        before, place = word, start
        lost = (word, start) in cut if borderless else word in cut_words
        numbers.append(-1 if lost else number)
    return numbers


def unknown_share(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of tokens that the tokenizer does not know.

    Up to ``LOOKED`` texts, evenly spaced, are looked at.
    """
    looked = [text for text in texts[:: max(1, len(texts) // LOOKED)] if text]
    if not looked:
        return 0.0
    ids = tokenizer(looked, add_special_tokens=False)["input_ids"]
    # Some tokenizers leave out what they do not know, and may leave nothing.
    unknown = sum(row.count(tokenizer.unk_token_id) if row else 1 for row in ids)
    return unknown / sum(max(1, len(row)) for row in ids)


def unknown_words_told(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the warning about texts that a tokenizer does not know; empty if it knows them."""
    share = unknown_share(texts, tokenizer)
    if share < WORTH_TELLING:
        return ""
    return (
        f"{share:.1%} of the captions' tokens are unknown to the tokenizer and cannot be learnt; "
        "choose a text encoder of their language, or train one by `vilta pretrain-text`"
    )
