"""Parts of speech of English captions, by the Hanover Tagger (extra `pos`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def parts_of_speech(words: Sequence[str]) -> list[str]:
    """Return the part of speech of each word of an English caption: noun, verb, adjective, ...

    By the Hanover Tagger (https://github.com/wartaal/HanTa). Raises ``ValueError`` if it is not
    installed.
    """
    tags = [tag for _, _, tag in _tagger().tag_sent(list(words))]
    return [
        next((part for start, part in PARTS.items() if t.startswith(start)), "other") for t in tags
    ]


PARTS = {
    "NP": "name",
    "NN": "noun",
    "V": "verb",
    "AJ": "adjective",
    "AV": "adverb",
    "PR": "preposition",
    "AT": "determiner",
    "D": "determiner",
    "PN": "pronoun",
    "CRD": "number",
    "ORD": "number",
    "CJ": "conjunction",
}
"""Beginnings of the tagger's tags, which are those of the British National Corpus (C5)."""


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError:
        raise ValueError(
            "parts of speech need the Hanover Tagger: pip install 'vilta[pos]'"
        ) from None
    return HanoverTagger("morphmodel_en.pgz")
