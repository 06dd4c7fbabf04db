"""DAQUAR's official measures: exact match of the answer list, and WUPS.

Malinowski and Fritz, "A Multi-World Approach to Question Answering about Real-World Scenes based on
Uncertain Input", NIPS 2014 (arXiv 1410.0210), equation 12, and the rules of their script: an answer
is a list of words without order; two words are as similar as the closest of their noun senses in
WordNet (Wu and Palmer 1994), and a similarity below the threshold counts a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any

Similarity = Callable[[str, str], float]
"""How alike two words are, in [0, 1]."""

FAR_AWAY = 0.1
"""What a similarity below the threshold is multiplied by."""


def exact_match(truth: Sequence[str], given: Sequence[str]) -> float:
    """Return 1 if two answers have the same words, else 0; order and repetition do not count."""
    return float(set(truth) == set(given))


def wups(
    truth: Sequence[str], given: Sequence[str], similarity: Similarity, threshold: float
) -> float:
    """Return how well an answer fits, in [0, 1].

    Every word of each answer is compared with the closest word of the other. The products of these
    similarities, one for each answer, punish words that are wrong and words that are missing; the
    smaller one counts. Two empty answers agree.
    """
    if not truth or not given:
        return float(not truth and not given)

    def close(a: str, b: str) -> float:
        if a == b:
            return 1.0
        alike = similarity(a, b)
        return alike if alike >= threshold else FAR_AWAY * alike

    return min(
        prod(max(close(a, b) for b in truth) for a in given),
        prod(max(close(a, b) for a in given) for b in truth),
    )


def wordnet_similarity() -> Similarity:
    """Return Wu and Palmer's similarity by NLTK and its WordNet 3.0.

    Raises ``ValueError`` in one line if one of the two is not installed.
    """
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        raise ValueError(
            "WUPS needs WordNet: pip install nltk && python -m nltk.downloader wordnet"
        ) from None
    return lru_cache(maxsize=None)(partial(_closest_senses, wordnet))


def _closest_senses(wordnet: Any, a: str, b: str) -> float:
    """Return the similarity of the closest noun senses; 0 if a word has none."""
    senses = product(wordnet.synsets(a, pos="n"), wordnet.synsets(b, pos="n"))
    return max((x.wup_similarity(y) or 0.0 for x, y in senses), default=0.0)
