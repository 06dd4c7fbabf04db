"""The truth of any sentence of the grammar about any scene.

- "a red ball" holds if there is at least one; the article "the" says no more than "a".
- A count is exact: "two red balls" is false where there are three. "two stars above a ring"
  speaks of all the stars: there are two, and both are above one and the same ring.
- Phrases with an article speak of different objects throughout a sentence: "a red ball and a
  striped ball" needs two balls, also if one is red and striped. A counted phrase speaks of the
  whole picture, so it may share objects with other phrases ("three objects: a ball and a star").
- Relations hold by ``world.MARGIN`` along their own axis, or not at all.
"""

from vilta.scenes.grammar import Claim, Phrase, parse
from vilta.scenes.world import MARGIN, Scene, Thing

_ATTRIBUTES = ("colour", "shape", "size", "texture")


def is_true(scene: Scene, sentence: str) -> bool:
    """Say whether the sentence holds of the scene.

    Raises:
        ValueError: if the sentence is outside of the grammar; see :func:`parse`.
    """
    claims = parse(sentence)
    if claims is None:
        raise ValueError(f"outside of the scenes' grammar, so neither true nor false: {sentence!r}")
    return holds(scene, claims)


def holds(scene: Scene, claims: tuple[Claim, ...]) -> bool:
    """Say whether all claims hold of the scene together."""
    phrases: list[Phrase] = []
    relations: list[tuple[int, str, int]] = []
    for claim in claims:
        subject = len(phrases)
        phrases.append(claim.subject)
        for relation, other in claim.relations:
            relations.append((subject, relation, len(phrases)))
            phrases.append(other)
    return _assign(scene.things, phrases, relations, ())


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Return whether the relation holds from ``first`` to ``second``."""
    right, down = second.x - first.x, second.y - first.y
    distance = {"left": right, "right": -right, "above": down, "below": -down}[relation]
    return distance >= MARGIN


def matches(thing: Thing, phrase: Phrase) -> bool:
    """Say whether the object has everything that the phrase asks; its count is left aside."""
    return all(getattr(phrase, name) in (None, getattr(thing, name)) for name in _ATTRIBUTES)


def _assign(
    things: tuple[Thing, ...],
    phrases: list[Phrase],
    relations: list[tuple[int, str, int]],
    chosen: tuple[tuple[int, ...], ...],
) -> bool:
    """Search for objects of the remaining phrases; ``chosen`` holds those of the first ones."""
    if len(chosen) == len(phrases):
        return True
    at = len(chosen)
    phrase = phrases[at]
    fitting = [i for i, thing in enumerate(things) if matches(thing, phrase)]
    options: list[tuple[int, ...]]
    if phrase.count is not None:
        options = [tuple(fitting)] if len(fitting) == phrase.count else []
    else:
        taken = {
            picked[0] for picked, other in zip(chosen, phrases, strict=False) if other.count is None
        }
        options = [(i,) for i in fitting if i not in taken]
    for option in options:
        picks = (*chosen, option)
        if all(
            related(things[i], relation, things[j])
            for first, relation, second in relations
            if max(first, second) == at
            for i in picks[first]
            for j in picks[second]
        ) and _assign(things, phrases, relations, picks):
            return True
    return False
