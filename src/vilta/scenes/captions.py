"""True captions of a scene, in several lengths and constructions."""

import re
from collections.abc import Callable
from random import Random

from vilta.scenes.oracle import is_true, related
from vilta.scenes.words import (
    ANY_SHAPE,
    COUNTS,
    LEXICON,
    OPPOSITE,
    Word,
    article,
    plural,
    say,
    with_articles,
)
from vilta.scenes.world import Draws, Scene, Thing

_NUMBER_WORDS = {number: word for word, number in COUNTS.items()}
_GLUE = (
    "a",
    "an",
    "the",
    "of",
    "to",
    "on",
    "is",
    "there",
    "with",
    "it",
    "and",
    "including",
    "picture",
    "image",
    "shows",
)
COLOURLESS = 0.5
"""Share of captions without a colour. If colours were always named, they alone would distinguish
most scenes, and contrast would teach a model nothing about shapes."""
_COLOUR = re.compile(
    rf"(?<!is )\b(?:{'|'.join(word for word, entry in LEXICON.items() if entry.kind == 'colour')}) "
)
_OPENINGS = ("a picture of ", "an image of ", "the picture shows ", "there is ")


def captions(scene: Scene, count: int = 5, rng: Random | None = None) -> list[str]:
    """Return ``count`` different true captions.

    The first five are a list of all objects, two captions with spatial relations, one with a
    number, and one of the other constructions, in random order; further ones are drawn freely.

    Args:
        scene: what to describe.
        count: how many captions, at least 1.
        rng: source of the choices; by default they are a function of the scene's seed and index.

    Raises:
        ValueError: if ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"a scene needs at least one caption, got count={count}")
    rng = rng or Draws(scene.seed, scene.index, stream=1)
    plan: list[_Construction] = [_everything, _relation, _counted]
    plan.append(_two_relations if len(scene.things) > 2 else _relation)
    plan.append(rng.choice((_some, _some, _predicates, _detailed)))
    rng.shuffle(plan)
    found: dict[str, None] = {}
    turn = 0
    while len(found) < count:
        construct = plan[turn] if turn < len(plan) else rng.choice(plan)
        turn += 1
        caption = construct(scene, rng)
        if caption is not None and rng.random() < COLOURLESS:
            caption = _without_colours(caption)
        # Chance can name too little: two objects in one lane for "left", a count that another
        # object spoils. The oracle has the last word.
        if caption is not None and is_true(scene, caption):
            found[caption] = None
    return list(found)


_Construction = Callable[[Scene, Random], str | None]


def _without_colours(caption: str) -> str:
    """Return the caption without the colours that stand before nouns."""
    return with_articles(_COLOUR.sub("", caption))


def _describe(
    thing: Thing, rng: Random, *, detail: float = 0.25, lead: str = "a", colour: bool = True
) -> str:
    """Return a noun phrase; ``detail`` is the probability of naming the size, and the texture."""
    words: list[str] = []
    if rng.random() < detail:
        words.append(say(Word("size", thing.size), rng))
    if rng.random() < (detail if thing.texture != "plain" else detail / 2):
        words.append(say(Word("texture", thing.texture), rng))
    if rng.random() < 0.3:
        words.reverse()
    if colour:
        words.append(say(Word("colour", thing.colour), rng))
    words.append(_noun(thing, rng))
    if lead == "a":
        lead = article(words[0])
    return " ".join([lead, *words] if lead else words)


def _noun(thing: Thing, rng: Random) -> str:
    return say(Word("shape", thing.shape), rng) if rng.random() < 0.95 else rng.choice(ANY_SHAPE)


def _join(parts: list[str], rng: Random) -> str:
    if len(parts) == 1:
        return parts[0]
    last = rng.choice((" and ", " and ", ", and ")) if len(parts) > 2 else " and "
    return ", ".join(parts[:-1]) + last + parts[-1]


def _place(relation: str, rng: Random) -> str:
    word = say(Word("relation", relation), rng)
    if relation in ("left", "right"):
        return rng.choice(("to the {} of", "to the {} of", "on the {} of", "{} of")).format(word)
    return word


def _detail(number: int) -> float:
    """The fewer objects are named, the more is said about each: captions should fit one scene."""
    return {1: 1.0, 2: 0.7, 3: 0.5}.get(number, 0.3)


def _everything(scene: Scene, rng: Random) -> str:
    return _list(scene, rng, len(scene.things))


def _some(scene: Scene, rng: Random) -> str:
    return _list(scene, rng, rng.choice((2, 3)))


def _list(scene: Scene, rng: Random, number: int) -> str:
    things = rng.sample(scene.things, min(number, len(scene.things)))
    if rng.random() < 0.2:  # the style of a label: "red ball, small blue star"
        return ", ".join(_describe(t, rng, detail=_detail(len(things)), lead="") for t in things)
    phrases = [_describe(t, rng, detail=_detail(len(things))) for t in things]
    return (rng.choice(_OPENINGS) if rng.random() < 0.3 else "") + _join(phrases, rng)


def _relation(scene: Scene, rng: Random) -> str | None:
    first, second = rng.sample(scene.things, 2)
    relation = _drawn_relation(first, second, rng)
    if relation is None:
        return None
    detail = _detail(2)
    subject, other = _describe(first, rng, detail=detail), _describe(second, rng, detail=detail)
    place = _place(relation, rng)
    form = rng.random()
    if form < 0.6:
        start = "there is " if form < 0.08 else ""
        caption = f"{start}{subject} {'is ' if 0.08 < form < 0.25 else ''}{place} {other}"
    elif form < 0.8:
        caption = f"{place} {other} {rng.choice(('is', 'there is'))} {subject}"
    else:
        caption = f"{other} with {subject} {place} it"
    rest = [thing for thing in scene.things if thing not in (first, second)]
    if rest and rng.random() < 0.3:
        third = _describe(rng.choice(rest), rng, detail=_detail(3))
        caption = f"{third} and {caption}" if 0.25 < form < 0.6 else f"{caption}, and {third}"
    return caption


def _two_relations(scene: Scene, rng: Random) -> str | None:
    first, *others = rng.sample(scene.things, 3)
    relations = [_drawn_relation(first, other, rng) for other in others]
    if relations[0] is None or relations[1] is None:
        return None
    detail = _detail(3)
    places = [
        f"{_place(relation, rng)} {_describe(other, rng, detail=detail)}"
        for relation, other in zip(relations, others, strict=True)
        if relation is not None
    ]
    return f"{_describe(first, rng, detail=detail)} {' and '.join(places)}"


def _drawn_relation(first: Thing, second: Thing, rng: Random) -> str | None:
    holding = [relation for relation in OPPOSITE if related(first, relation, second)]
    return rng.choice(holding) if holding else None


def _counted(scene: Scene, rng: Random) -> str | None:
    """Count objects that share something, if there are any, else all of them; then name two."""
    thing = rng.choice(scene.things)
    keys = rng.choice((("colour", "shape"), ("shape",), ("colour",), ("texture", "shape")))
    alike = [t for t in scene.things if all(getattr(t, k) == getattr(thing, k) for k in keys)]
    rest = [t for t in scene.things if t not in alike]
    if len(alike) < 2:
        total = f"{_NUMBER_WORDS[len(scene.things)]} {plural(rng.choice(ANY_SHAPE))}"
        named = rng.sample(scene.things, 2)
        phrases = _join([_describe(t, rng, detail=_detail(2)) for t in named], rng)
        return total + rng.choice((": ", " including ")) + phrases
    adjectives = [
        say(Word(kind, getattr(thing, kind)), rng) for kind in ("texture", "colour") if kind in keys
    ]
    noun = rng.choice(ANY_SHAPE)
    if "shape" in keys:
        noun = say(Word("shape", thing.shape), rng)
    phrase = " ".join([_NUMBER_WORDS[len(alike)], *adjectives, plural(noun)])
    if not rest:
        return f"{phrase} including {_describe(thing, rng, detail=_detail(1))}"
    other = rng.choice(rest)
    holding = [r for r in OPPOSITE if all(related(t, r, other) for t in alike)]
    described = _describe(other, rng, detail=_detail(2))
    if holding and rng.random() < 0.6:
        return f"{phrase} {_place(rng.choice(holding), rng)} {described}"
    return f"{phrase} and {described}"


def _predicates(scene: Scene, rng: Random) -> str:
    """Say "the ball is red and the small star is blue"."""
    return _join(
        [
            f"{_describe(t, rng, detail=_detail(2), lead='the', colour=False)} is "
            f"{say(Word('colour', t.colour), rng)}"
            for t in rng.sample(scene.things, 2)
        ],
        rng,
    )


def _detailed(scene: Scene, rng: Random) -> str:
    return _describe(rng.choice(scene.things), rng, detail=1.0)


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can hold, sorted: enough to build a tokenizer from."""
    nouns = [*ANY_SHAPE, *(plural(noun) for noun in ANY_SHAPE)]
    return tuple(sorted({*LEXICON, *nouns, *_GLUE}))
