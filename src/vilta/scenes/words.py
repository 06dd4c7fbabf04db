"""The words of the scenes: what each content word means, and which words mean the same.

Every meaning has a first name (``red``) and further names (``crimson``, ``scarlet``); all are
single words, so that one masked word can be filled by one word. The choice is ours.
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Literal

WordClass = Literal["colour", "shape", "size", "texture", "relation", "count"]

COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "scarlet"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "yellow": ("yellow", "golden"),
    "orange": ("orange", "tangerine"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "brown": ("brown", "chestnut"),
    "black": ("black", "ebony"),
    "white": ("white", "ivory"),
    "gray": ("gray", "grey"),
    "cyan": ("cyan", "turquoise"),
}
"""First name of a colour -> all its names."""

SHAPES: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "circle", "sphere"),
    "square": ("square", "cube", "box"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
    "heart": ("heart",),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "moon": ("moon", "crescent"),
    "arrow": ("arrow", "pointer"),
}
"""First name of a shape -> all its names, in the singular."""

SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "midsize"),
    "large": ("large", "big", "huge"),
}
"""First name of a size -> all its names."""

TEXTURES: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "spotted": ("spotted", "dotted"),
}
"""First name of a texture -> all its names."""

RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("left",),
    "right": ("right",),
    "above": ("above", "over"),
    "below": ("below", "beneath", "under", "underneath"),
}
"""First name of a spatial relation -> all its names; ``left`` and ``right`` go with ``of``."""

OPPOSITE: dict[str, str] = {"left": "right", "right": "left", "above": "below", "below": "above"}
"""The relation seen from the other object."""

COUNTS: dict[str, int] = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
"""Count word -> number; a count is meant exactly."""

ANY_SHAPE: tuple[str, ...] = ("object", "thing", "item")
"""Nouns that fit every shape."""


@dataclass(frozen=True)
class Word:
    """What one surface word says."""

    kind: WordClass
    meaning: str
    """First name of the meaning, e.g. ``red`` for ``scarlet``."""
    plural: bool = False


def plural(noun: str) -> str:
    """Return the plural of a noun of the scenes."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _lexicon() -> dict[str, Word]:
    tables: dict[WordClass, dict[str, tuple[str, ...]]] = {
        "colour": COLOURS,
        "shape": SHAPES,
        "size": SIZES,
        "texture": TEXTURES,
        "relation": RELATIONS,
        "count": {word: (word,) for word in COUNTS},
    }
    lexicon = {
        name: Word(kind, meaning)
        for kind, table in tables.items()
        for meaning, names in table.items()
        for name in names
    }
    for meaning, names in SHAPES.items():
        lexicon.update({plural(name): Word("shape", meaning, plural=True) for name in names})
    return lexicon


LEXICON: dict[str, Word] = _lexicon()
"""Every content word, lower-case. Nouns such as ``object`` carry no content and are not here."""


_NAMES: dict[Word, tuple[str, ...]] = {
    word: tuple(name for name, other in LEXICON.items() if other == word)
    for word in LEXICON.values()
}
"""Meaning (and number) -> its surface words, first name first."""

FIRST_NAME_SHARE = 0.7
"""How often a caption uses the first name rather than one of the others (our choice)."""


def say(word: Word, rng: Random) -> str:
    """Draw a surface word for a meaning; captions and edits draw alike, so neither shows."""
    names = _NAMES[word]
    if len(names) == 1 or rng.random() < FIRST_NAME_SHARE:
        return names[0]
    return rng.choice(names[1:])


def word_class(word: str) -> WordClass | None:
    """Return what a word means in a scene, or None if it is not a content word."""
    entry = LEXICON.get(word.lower())
    return entry.kind if entry else None


def synonyms(word: str) -> tuple[str, ...]:
    """Return the other words with the same meaning and number; empty if there are none."""
    entry = LEXICON.get(word.lower())
    return tuple(name for name in _NAMES[entry] if name != word.lower()) if entry else ()


def article(following: str) -> str:
    """Return ``a`` or ``an``, as the following word wants it."""
    return "an" if following[:1].lower() in "aeiou" else "a"


def with_articles(text: str) -> str:
    """Put ``a`` or ``an`` right before whatever word now follows."""
    return re.sub(r"\b(an?) (?=(\w+))", lambda found: article(found[2]) + " ", text)
