"""Captions changed by a word: made false, paraphrased, or with a colour removed."""

import re
from random import Random

from vilta.scenes.oracle import is_true
from vilta.scenes.words import (
    LEXICON,
    OPPOSITE,
    Word,
    WordClass,
    article,
    say,
    synonyms,
    with_articles,
    word_class,
)
from vilta.scenes.world import Scene

_WORD = re.compile(r"[A-Za-z]+")

_MEANINGS: dict[tuple[str, bool], list[Word]] = {}
for _entry in dict.fromkeys(LEXICON.values()):
    _MEANINGS.setdefault((_entry.kind, _entry.plural), []).append(_entry)


def one_word_edits(
    scene: Scene, caption: str, rng: Random, count: int = 1, kind: WordClass | None = None
) -> list[str]:
    """Return up to ``count`` different captions that one changed word has made false.

    The new word is of the same class (colour, shape, size, texture, relation, count), keeps number
    and article right, and is drawn as captions draw theirs, so that the text alone shows nothing.
    With ``kind`` only words of that class change. Fewer come back where the caption has fewer such
    edits.
    """
    edits: dict[str, None] = {}
    by_place = {
        place: alternatives
        for place in _WORD.finditer(caption)
        if kind in (None, word_class(place[0])) and (alternatives := _alternatives(place[0]))
    }
    while len(edits) < count and by_place:
        # First the place, then the word: else colours and shapes, which are many, would win.
        place = rng.choice(list(by_place))
        meaning = by_place[place].pop(rng.randrange(len(by_place[place])))
        if not by_place[place]:
            del by_place[place]
        word = say(meaning, rng)
        edit = caption[: place.start()] + word + caption[place.end() :]
        if _article_fits(caption, place, word) and not is_true(scene, edit):
            edits[edit] = None
    return list(edits)


def paraphrases(caption: str, rng: Random, count: int = 1) -> list[str]:
    """Return up to ``count`` different captions with the same meaning in other words.

    Some content words give way to synonyms, and "a" to "an" where that is needed. Empty if no
    word has a synonym.
    """
    found: dict[str, None] = {}
    places = [place for place in _WORD.finditer(caption) if synonyms(place[0])]
    for _ in range(8 * count if places else 0):
        if len(found) == count:
            break
        forced = rng.choice(places)
        text = caption
        for place in reversed(places):
            if place is forced or rng.random() < 0.5:
                word = rng.choice(synonyms(place[0]))
                text = text[: place.start()] + word + text[place.end() :]
        found[with_articles(text)] = None
    return list(found)


def masked_colour(caption: str, rng: Random) -> tuple[str, str, str] | None:
    """Take out one colour word: the text before it, the word, the text after it.

    The three joined give the caption back. None if the caption names no colour.
    """
    places = [
        place
        for place in _WORD.finditer(caption)
        if (entry := LEXICON.get(place[0].lower())) and entry.kind == "colour"
    ]
    if not places:
        return None
    place = rng.choice(places)
    return caption[: place.start()], place[0], caption[place.end() :]


def _alternatives(word: str) -> list[Word]:
    """Return the meanings that can replace a word and keep the sentence well-formed."""
    entry = LEXICON.get(word.lower())
    if entry is None:
        return []
    if entry.kind == "relation":
        return [Word("relation", OPPOSITE[entry.meaning])]
    others = [other for other in _MEANINGS[entry.kind, entry.plural] if other != entry]
    if entry.kind == "count":  # the noun stays in its number
        return [o for o in others if "one" not in (o.meaning, entry.meaning)]
    return others


def _article_fits(caption: str, place: re.Match[str], word: str) -> bool:
    before = caption[: place.start()].split()
    return (
        not before or before[-1].lower() not in ("a", "an") or before[-1].lower() == article(word)
    )
