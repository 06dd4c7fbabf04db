"""The words of a caption: their positions in the text, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.screen import notes, shown


class UnknownWords(ValueError):
    """A caption has no word that the model knows."""


class Word(NamedTuple):
    """A word as the tokenizer splits it, without punctuation."""

    text: str
    start: int
    """First character in the caption."""
    end: int
    """The character after the last."""
    tokens: tuple[int, ...]
    """Positions of its tokens."""


def find_words(
    tokenizer: PreTrainedTokenizerBase, caption: str, longest: int
) -> tuple[Int[Tensor, "1 L"], list[Word]]:
    """Return the tokens of a caption, truncated to ``longest``, and its words.

    A word that the truncation cuts in two is no word: a replacement would leave its end behind.
    Raises ``UnknownWords`` if no word is left.
    """
    encoded = tokenizer(caption, truncation=True, max_length=longest)
    whole = read_until(tokenizer, caption, longest)
    special = set(tokenizer.all_special_ids)
    ids, numbers = encoded["input_ids"], encoded.word_ids()
    places: dict[int, list[int]] = {}
    for place, (token, number) in enumerate(zip(ids, numbers, strict=True)):
        if number is not None and token not in special:
            places.setdefault(number, []).append(place)
    words = []
    for number, tokens in places.items():
        start, end = encoded.word_to_chars(number)
        text = caption[start:end]
        start += len(text) - len(text.lstrip())  # some tokenizers include the space before a word
        if end <= whole and any(map(str.isalnum, text)):
            words.append(Word(text.strip(), start, end, tuple(tokens)))
    if not words:
        raise UnknownWords(f"no word that the model knows in {caption!r}")
    return torch.tensor([ids]), words


def read_until(tokenizer: PreTrainedTokenizerBase, caption: str, longest: int) -> int:
    """Return the end of the last word that the model reads whole, counted in characters."""
    encoded = tokenizer(caption, truncation=True, max_length=longest)
    numbers = [number for number in encoded.word_ids() if number is not None]
    if not numbers:
        return 0
    start, end = encoded.word_to_chars(numbers[-1])
    every = tokenizer(caption, verbose=False)  # no warning of its length
    return end if end == every.word_to_chars(numbers[-1])[1] else start


def unknown_words(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[str]:
    """Return the words, as written, that the tokenizer has no token for: read as one unknown."""
    encoded = tokenizer(caption, add_special_tokens=False, verbose=False)
    tokens = zip(encoded["input_ids"], encoded.word_ids(), strict=True)
    numbers = {number: None for token, number in tokens if token == tokenizer.unk_token_id}
    words = [caption[slice(*encoded.word_to_chars(number))].strip() for number in numbers]
    return list(dict.fromkeys(words))


def require_text(texts: Sequence[str]) -> None:
    """Refuse a text with bytes that are not UTF-8, which Python passes on from the command line."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the text '{shown(text)}' is not UTF-8; set the terminal or the script to UTF-8"
            ) from None


def say_unread(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], longest: int) -> None:
    """Tell the user which words of captions the model does not know, and where they are cut."""
    if unknown := {word: None for text in captions for word in unknown_words(tokenizer, text)}:
        notes.print(f"note: the model's vocabulary does not have: {', '.join(unknown)}")
    for caption in captions:
        if words := caption[read_until(tokenizer, caption, longest) :].split():
            notes.print(
                f"note: the model reads {longest} tokens; the last {len(words):,} words of a "
                f"caption, from {words[0]!r} on, are ignored"
            )


def with_capital_of(word: str, instead: str) -> str:
    """Write a replacement with the capital letter of the word, as at the start of a sentence."""
    return instead[:1].upper() + instead[1:] if word[:1].isupper() else instead


def masked_rows(
    tokenizer: PreTrainedTokenizerBase, tokens: Int[Tensor, "1 L"], words: Sequence[Word]
) -> Int[Tensor, "W L"]:
    """Return one copy of the caption for each word, with that word masked."""
    rows = tokens.repeat(len(words), 1)
    for row, word in zip(rows, words, strict=True):
        row[list(word.tokens)] = tokenizer.mask_token_id
    return rows
