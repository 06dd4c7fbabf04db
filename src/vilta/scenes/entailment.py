"""Entailment, contradiction or neither between a picture and a sentence, by possible worlds.

In some pictures a card hides one object. A sentence is entailed if it is true whatever the card
hides, contradicted if it is false whatever it hides, else neutral. Without a card the picture
determines everything, and nothing is neutral.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Any

from vilta.scenes.captions import captions
from vilta.scenes.edits import one_word_edits
from vilta.scenes.grammar import Claim, Phrase, parse
from vilta.scenes.oracle import holds
from vilta.scenes.questions import VALUES
from vilta.scenes.world import Scene

LABELS = ("contradiction", "neutral", "entailment")
SMALLEST = 3
"""Objects that a scene needs for one of them to be hidden: the others must leave much to say."""
NEUTRAL = 0.6
"""Share of neutral sentences where there is a card; over all scenes it is about a third."""
TRIES = 40


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A sentence about a picture and what the picture says to it."""

    text: str
    label: str
    kind: str
    """``card`` or ``open``: whether something is hidden."""


def hidden_object(scene: Scene, rng: Random) -> int | None:
    """Draw the object that the card hides; None in scenes of two objects, which have no card."""
    return rng.randrange(len(scene.things)) if len(scene.things) >= SMALLEST else None


def hypotheses(scene: Scene, hidden: int | None, rng: Random, count: int) -> list[Hypothesis]:
    """Return up to ``count`` different sentences with their labels, which are balanced."""
    found: dict[str, Hypothesis] = {}
    kind = "open" if hidden is None else "card"
    for _ in range(2 * count):
        if len(found) == count:
            break
        wanted = rng.choice(("entailment", "contradiction"))
        if hidden is not None and rng.random() < NEUTRAL:
            wanted = "neutral"
        for _ in range(TRIES):
            text = _sentence(scene, hidden, wanted, rng)
            if text and text not in found and verdict(scene, hidden, text) == wanted:
                found[text] = Hypothesis(text=text, label=wanted, kind=kind)
                break
    return list(found.values())


def verdict(scene: Scene, hidden: int | None, sentence: str) -> str:
    """Return what a picture says to a sentence of the grammar: one of ``LABELS``."""
    claims = parse(sentence)
    if claims is None:
        raise ValueError(f"outside of the scenes' grammar: {sentence!r}")
    seen: set[bool] = set()
    for world in possible_worlds(scene, hidden, claims):
        seen.add(holds(world, claims))
        if len(seen) == 2:
            return "neutral"
    return "entailment" if True in seen else "contradiction"


def possible_worlds(scene: Scene, hidden: int | None, claims: tuple[Claim, ...]) -> Iterator[Scene]:
    """Yield scenes that look like this one, enough of them to decide the claims.

    The oracle compares attributes with what the claims name and in no other way, so all values
    that they do not name are alike: of those, one will do. The card shows the object's place.
    """
    if hidden is None:
        yield scene
        return
    phrases = [p for c in claims for p in (c.subject, *(other for _, other in c.relations))]
    options = [_worth_trying(kind, phrases) for kind in VALUES]
    for values in product(*options):
        attributes: dict[str, Any] = dict(zip(VALUES, values, strict=True))
        things = list(scene.things)
        things[hidden] = replace(things[hidden], **attributes)
        yield replace(scene, things=tuple(things))


def _worth_trying(kind: str, phrases: list[Phrase]) -> list[str]:
    named = {getattr(phrase, kind) for phrase in phrases} - {None}
    other = next((value for value in VALUES[kind] if value not in named), None)
    return [*sorted(named), *([other] if other else [])]


def _sentence(scene: Scene, hidden: int | None, wanted: str, rng: Random) -> str:
    """Draw a sentence that is likely to have the wanted label."""
    things = [thing for i, thing in enumerate(scene.things) if i != hidden]
    visible = replace(scene, things=tuple(things))
    if wanted == "neutral":
        about = scene if rng.random() < 0.5 else visible
        caption = captions(about, 1, rng)[0]
        edits = one_word_edits(visible, caption, rng) if rng.random() < 0.5 else []
        return edits[0] if edits else caption
    caption = captions(visible, 1, rng)[0]
    if wanted == "entailment":
        return caption
    for _ in range(1 if hidden is None else 2):  # one wrong word may be true of what is hidden
        edits = one_word_edits(visible, caption, rng)
        caption = edits[0] if edits else caption
    return caption
