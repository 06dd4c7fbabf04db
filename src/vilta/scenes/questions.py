"""Questions about a scene, each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from vilta.scenes.grammar import Phrase
from vilta.scenes.oracle import matches, related
from vilta.scenes.words import (
    ANY_SHAPE,
    COLOURS,
    OPPOSITE,
    SHAPES,
    SIZES,
    TEXTURES,
    Word,
    article,
    plural,
    say,
)
from vilta.scenes.world import Scene, Thing

KINDS = {
    "colour": 0.2,
    "shape": 0.2,
    "size": 0.1,
    "texture": 0.1,
    "count": 0.2,
    "existence": 0.15,
    "relation": 0.05,
}
"""Share of each kind of question (our choice)."""
VALUES = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "texture": TEXTURES}
"""Attribute -> its values, by first name."""
TRIES = 20

_WHICH = {
    kind: (
        f"what {kind} is the {{}}?",
        f"which {kind} does the {{}} have?",
        f"the {{}} has what {kind}?",
    )
    for kind in VALUES
}
_COUNT = (
    "how many {} are there?",
    "how many {} does the picture show?",
    "what number of {} is there?",
)
_EXISTS = ("is there {}?", "does the picture show {}?", "can you see {}?")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one scene; the answer is a first name, a digit, yes or no."""

    text: str
    answer: str
    kind: str


def questions(scene: Scene, rng: Random, count: int) -> list[Question]:
    """Return up to ``count`` different questions about a scene, their kinds by ``KINDS``.

    Yes and no are equally likely, and what is asked for in vain differs by one attribute from an
    object that is there.
    """
    found: dict[str, Question] = {}
    names, shares = list(KINDS), list(KINDS.values())
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        kind = rng.choices(names, shares)[0]
        made = _MAKERS[kind](scene, kind, rng)
        if made is not None:
            found.setdefault(made.text, made)
    return list(found.values())


def noun_phrase(phrase: Phrase, rng: Random, many: bool = False) -> str:
    """Say what a phrase asks for, without article or count: ``small red ball``."""
    words = [
        say(Word(kind, value), rng)
        for kind in ("size", "texture", "colour")
        if (value := getattr(phrase, kind)) is not None
    ]
    noun = say(Word("shape", phrase.shape), rng) if phrase.shape else rng.choice(ANY_SHAPE)
    return " ".join([*words, plural(noun) if many else noun])


def described(thing: Thing, kinds: list[str]) -> Phrase:
    """Return the phrase that asks for these attributes of an object."""
    values: dict[str, Any] = {kind: getattr(thing, kind) for kind in kinds}
    return Phrase(**values)


def some_kinds(rng: Random, without: str = "") -> list[str]:
    """Draw one to three kinds of attributes, colour and shape more often than the others."""
    odds = {"colour": 0.6, "shape": 0.7, "size": 0.25, "texture": 0.25}
    kinds = [kind for kind, chance in odds.items() if kind != without and rng.random() < chance]
    return kinds or [rng.choice([kind for kind in odds if kind != without])]


def changed(phrase: Phrase, rng: Random) -> Phrase:
    """Return the phrase with one of its attributes changed."""
    kinds = [kind for kind in VALUES if getattr(phrase, kind) is not None]
    kind = rng.choice(kinds)
    others = [value for value in VALUES[kind] if value != getattr(phrase, kind)]
    values: dict[str, Any] = {kind: rng.choice(others)}
    return replace(phrase, **values)


def _attribute(scene: Scene, kind: str, rng: Random) -> Question | None:
    thing = rng.choice(scene.things)
    phrase = described(thing, some_kinds(rng, without=kind))
    answers = {getattr(other, kind) for other in scene.things if matches(other, phrase)}
    if len(answers) > 1:
        return None
    text = rng.choice(_WHICH[kind]).format(noun_phrase(phrase, rng))
    return Question(text=text, answer=answers.pop(), kind=kind)


def _number(scene: Scene, kind: str, rng: Random) -> Question | None:
    """Prefer numbers other than one, which most phrases would have."""
    thing = rng.choice(scene.things)
    phrase = described(thing, rng.choice((["shape"], ["shape"], ["colour"], ["texture"], [])))
    if phrase != Phrase() and rng.random() < 0.2:
        phrase = changed(phrase, rng)
    number = sum(matches(other, phrase) for other in scene.things)
    if number == 1 and rng.random() < 0.6:
        return None
    text = rng.choice(_COUNT).format(noun_phrase(phrase, rng, many=True))
    return Question(text=text, answer=str(number), kind=kind)


def _existence(scene: Scene, kind: str, rng: Random) -> Question | None:
    phrase = described(rng.choice(scene.things), some_kinds(rng))
    answer = rng.choice(("yes", "no"))
    while answer == "no" and any(matches(thing, phrase) for thing in scene.things):
        phrase = changed(described(rng.choice(scene.things), some_kinds(rng)), rng)
    said = noun_phrase(phrase, rng)
    text = rng.choice(_EXISTS).format(f"{article(said.split()[0])} {said}")
    return Question(text=text, answer=answer, kind=kind)


def _relation(scene: Scene, kind: str, rng: Random) -> Question | None:
    first, second = rng.sample(scene.things, 2)
    phrases = [described(thing, some_kinds(rng)) for thing in (first, second)]
    if any(sum(matches(t, phrase) for t in scene.things) > 1 for phrase in phrases):
        return None
    holding = [relation for relation in OPPOSITE if related(first, relation, second)]
    if not holding:
        return None
    relation, answer = rng.choice(holding), rng.choice(("yes", "no"))
    if answer == "no":
        relation = OPPOSITE[relation]
    place = say(Word("relation", relation), rng) + (" of" if relation in ("left", "right") else "")
    one, other = (noun_phrase(phrase, rng) for phrase in phrases)
    return Question(text=f"is the {one} {place} the {other}?", answer=answer, kind=kind)


_MAKERS: dict[str, Callable[[Scene, str, Random], Question | None]] = {
    **dict.fromkeys(VALUES, _attribute),
    "count": _number,
    "existence": _existence,
    "relation": _relation,
}
