"""What the objectives need to know about a tokenizer's words, as tensors over the vocabulary."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from itertools import zip_longest

import snowballstemmer
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

# Words that say little about an image. Masking prefers all others (our choice, after arXiv
# 2109.02040, which found that most masked tokens are stop-words and punctuation). Prepositions of
# place (above, under, ...) are left out, because an image shows what they mean.
STOP_WORDS = frozenset(
    """
    a about after again against all am an and any are aren as at be because been before being
    both but by can could did do does doing during each few for from further had has have
    having he her here hers herself him himself his how i if in into is isn it its itself just
    me more most my myself no nor not now of on once only or other our ours ourselves own s
    same she should so some such t than that the their theirs them themselves then there these
    they this those to too until very was we were what when where which while who whom why
    will with would you your yours yourself yourselves
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Properties of each of ``V`` tokens; ids beyond the tokenizer's own count as special."""

    mask_id: int
    whole: Bool[Tensor, "V"]
    """The token begins a word, is made of letters, and is not special."""
    content: Bool[Tensor, "V"]
    """A whole word, or the first piece of one, that is not a stop-word."""
    stem: Int[Tensor, "V"]
    """Tokens with the same stem are inflections of one word."""
    regular: Int[Tensor, "N"]
    """Ids of all tokens that are not special; random replacements are drawn from them."""

    def to(self, device: torch.device | str) -> Vocabulary:
        """Return the tables on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Vocabulary(
            **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in values.items()}
        )


class VocabularyTables(nn.Module):
    """A ``Vocabulary`` that moves to a module's device with it and is never saved."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.mask_id = vocabulary.mask_id
        for name in ("whole", "content", "stem", "regular"):
            self.register_buffer(name, getattr(vocabulary, name), persistent=False)

    def tables(self) -> Vocabulary:
        """Return the vocabulary on the module's device."""
        return Vocabulary(
            mask_id=self.mask_id,
            whole=self.whole,
            content=self.content,
            stem=self.stem,
            regular=self.regular,
        )


MOST_WORDS = 10_000_000
"""Numbers that words may have; the largest vocabularies have a million (our choice)."""


def words_of(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Return the word of each number, None where the numbers have a gap.

    Raises ``ValueError`` for a number that no vocabulary reaches.
    """
    numbers = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if numbers > MOST_WORDS:
        raise ValueError(f"the tokenizer gives a word the number {numbers - 1:,}; it is damaged")
    return list(tokenizer.convert_ids_to_tokens(list(range(numbers))))


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Build the tables for a model with ``size`` word embeddings.

    WordPiece marks continuations (``##ing``); byte-level BPE and SentencePiece mark beginnings
    (``Ġ`` and ``▁``), which in WordPiece are letters as any other. Byte-level BPE spells every byte
    as a letter, punctuation included, so its tokens are decoded before they are tested for letters.
    Raises ``ValueError`` if the tokenizer has no mask token or more words than the model.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token; masked language modelling needs one")
    tokens = words_of(tokenizer)
    if len(tokens) > size:
        raise ValueError(
            f"the tokenizer has {len(tokens)} words but the model has embeddings for {size}; "
            "use the tokenizer that was saved with the model"
        )
    stemmer = snowballstemmer.stemmer("english")
    special = {*tokenizer.all_special_ids, *(i for i, t in enumerate(tokens) if t is None)}
    # Of a text that has no mark in it: a caption may have brought one into any vocabulary.
    marks_beginnings = any(piece.startswith(("Ġ", "▁")) for piece in tokenizer.tokenize("a a"))
    byte_level = tokenizer.convert_tokens_to_string(["Ġa"]).endswith(" a")
    # Lists, because writing one number into a tensor takes ten times as long.
    whole, content, stem = [False] * size, [False] * size, list(range(size))
    stems: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token is None:
            continue
        begins = token.startswith(("Ġ", "▁")) if marks_beginnings else not token.startswith("##")
        if byte_level:
            word = tokenizer.convert_tokens_to_string([token]).lstrip(" ").lower()
        else:
            word = token.lstrip("Ġ▁").removeprefix("##").lower()
        if i in special or not word.isalpha():
            continue
        whole[i] = begins
        content[i] = word not in STOP_WORDS
        stem[i] = stems.setdefault(stemmer.stemWord(word), i)
    regular = torch.tensor([i for i in range(len(tokens)) if i not in special])
    return Vocabulary(
        mask_id=tokenizer.mask_token_id,
        whole=torch.tensor(whole),
        content=torch.tensor(content),
        stem=torch.tensor(stem),
        regular=regular,
    )


def require_same_words(
    own: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase,
    names: tuple[str, str] = ("student", "teacher"),
) -> None:
    """Raise ``ValueError`` unless two models have the same word at every id.

    The message gives both sizes and the first word that differs; ``names`` tells the models apart.
    """
    ours, theirs = words_of(own), words_of(other)
    for i, (word, their) in enumerate(zip_longest(ours, theirs)):
        if word != their:
            raise ValueError(
                f"{names[1]} and {names[0]} have different vocabularies "
                f"({len(theirs)} and {len(ours)} words; word {i} is {their!r} and {word!r}); "
                "take two that share a tokenizer"
            )


def hash_of_words(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of every word and special id, which identifies the vocabulary."""
    words = words_of(tokenizer)
    content = json.dumps([words, sorted(tokenizer.all_special_ids), tokenizer.mask_token_id])
    return hashlib.sha256(content.encode()).hexdigest()
