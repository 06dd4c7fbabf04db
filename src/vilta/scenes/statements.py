"""Statements about two scenes side by side, true or false, as NLVR2 has them about photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from vilta.scenes.grammar import Phrase
from vilta.scenes.oracle import matches
from vilta.scenes.questions import changed, described, noun_phrase, some_kinds
from vilta.scenes.words import COUNTS, article
from vilta.scenes.world import Scene, make_scene

CANDIDATES = 8
"""Scenes that a pair is chosen from (our choice)."""
TRIES = 30
_NUMBERS = {number: word for word, number in COUNTS.items()}
_PICTURE = ("picture", "image")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A sentence about two pictures."""

    text: str
    label: bool
    kind: str


def scene_pair(seed: int, index: int) -> tuple[Scene, Scene]:
    """Return the two scenes of pair ``index``, the left and the right one.

    The right one shares an object's colour and shape with the left one if one of its candidates
    does; else "both pictures show ..." would nearly always be false.
    """
    first = index * CANDIDATES
    left = make_scene(seed, first)
    others = [make_scene(seed, first + i) for i in range(1, CANDIDATES)]
    seen = {(thing.colour, thing.shape) for thing in left.things}
    alike = [s for s in others if any((t.colour, t.shape) in seen for t in s.things)]
    return left, (alike or others)[0]


def statements(left: Scene, right: Scene, rng: Random, count: int) -> list[Statement]:
    """Return up to ``count`` different statements; in each kind, true and false are as likely."""
    found: dict[str, Statement] = {}
    for _ in range(2 * count):
        if len(found) == count:
            break
        kind, wanted = rng.choice(list(_MAKERS)), rng.random() < 0.5
        for _ in range(TRIES):
            text, label = _MAKERS[kind](left, right, rng)
            if label == wanted:
                found.setdefault(text, Statement(text=text, label=label, kind=kind))
                break
    return list(found.values())


def _count(scene: Scene, phrase: Phrase) -> int:
    return sum(matches(thing, phrase) for thing in scene.things)


def _phrase(left: Scene, right: Scene, rng: Random, plain: bool = False) -> Phrase:
    """Ask for something that one of the scenes has, or nearly has."""
    thing = rng.choice((*left.things, *right.things))
    phrase = described(thing, [rng.choice(("shape", "colour"))] if plain else some_kinds(rng))
    return changed(phrase, rng) if rng.random() < 0.3 else phrase


def _a(phrase: Phrase, rng: Random) -> str:
    said = noun_phrase(phrase, rng)
    return f"{article(said.split()[0])} {said}"


def _both(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    phrase = _phrase(left, right, rng)
    form = rng.choice(("both {p}s show {x}", "there is {x} in each {p}", "each {p} shows {x}"))
    label = _count(left, phrase) > 0 and _count(right, phrase) > 0
    return form.format(p=rng.choice(_PICTURE), x=_a(phrase, rng)), label


def _either(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    phrase = _phrase(left, right, rng)
    there = _count(left, phrase) > 0 or _count(right, phrase) > 0
    picture, said = rng.choice(_PICTURE), _a(phrase, rng)
    if rng.random() < 0.5:
        return f"at least one {picture} shows {said}", there
    return f"neither {picture} shows {said}", not there


def _only(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    phrase = _phrase(left, right, rng)
    at_left, at_right = _count(left, phrase) > 0, _count(right, phrase) > 0
    picture, said = rng.choice(_PICTURE), _a(phrase, rng)
    side = rng.choice(("left", "right", "one"))
    if side == "one":
        return f"only one of the {picture}s shows {said}", at_left != at_right
    own, other = (at_left, at_right) if side == "left" else (at_right, at_left)
    return f"only the {side} {picture} shows {said}", own and not other


def _sides(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    first, second = (_phrase(scene, scene, rng) for scene in (left, right))
    label = _count(left, first) > 0 and _count(right, second) > 0
    picture = rng.choice(_PICTURE)
    return (
        f"the left {picture} shows {_a(first, rng)} and the right one {_a(second, rng)}",
        label,
    )


def _more(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    phrase = _phrase(left, right, rng, plain=True) if rng.random() < 0.6 else Phrase()
    side, other = rng.choice((("left", "right"), ("right", "left")))
    first, second = _count(left, phrase), _count(right, phrase)
    label = first > second if side == "left" else second > first
    said = noun_phrase(phrase, rng, many=True)
    return (
        f"there are more {said} in the {side} {rng.choice(_PICTURE)} than in the {other} one",
        label,
    )


def _total(left: Scene, right: Scene, rng: Random) -> tuple[str, bool]:
    phrase = _phrase(left, right, rng, plain=True)
    total = _count(left, phrase) + _count(right, phrase)
    near = [n for n in (total - 1, total, total, total + 1) if n in _NUMBERS]
    number = rng.choice(near or list(_NUMBERS))  # more than there are words for
    said = noun_phrase(phrase, rng, many=number != 1)
    picture = rng.choice(_PICTURE)
    return f"the two {picture}s together show exactly {_NUMBERS[number]} {said}", number == total


_MAKERS: dict[str, Callable[[Scene, Scene, Random], tuple[str, bool]]] = {
    "both": _both,
    "either": _either,
    "only": _only,
    "sides": _sides,
    "more": _more,
    "total": _total,
}
