"""The grammar of the scenes: from a sentence to what it claims.

::

    sentence  := [picture] claim {separator claim} ["."]
    picture   := ("a" | "the" | "this") ("picture" | "image" | "photo") ("of" | "shows")
    separator := ("," | ":" | ";") ["and" | "while"] | "and" | "while" | "including"
    claim     := [there] phrase [["is" | "are"] relation phrase {[","] "and" relation phrase}]
               | [there] phrase "with" phrase relation ("it" | "them")
               | phrase ("is" | "are") attribute
               | relation phrase [there | "is" | "are"] phrase
    there     := "there" ("is" | "are")
    relation  := ["to" | "on"] ["the"] ("left" | "right") "of" | "above" | "below" | ...
    phrase    := ["a" | "an" | "the" | count] {colour | size | texture} (shape | "object" | ...)

A phrase has at most one colour, one size and one texture, in any order. Number and article need
not agree ("two ball", "a orange star"); case and the spaces around punctuation do not matter.
``and`` starts a new claim unless a relation follows; the grammar is a choice of ours.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from vilta.scenes.words import ANY_SHAPE, COUNTS, LEXICON, plural

_TOKEN = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_ARTICLES = {"a", "an", "the"}
_PICTURES = {"picture", "image", "photo"}
_BE = {"is", "are"}
_NOUNS = {*ANY_SHAPE, *(plural(noun) for noun in ANY_SHAPE)}


@dataclass(frozen=True)
class Phrase:
    """What a noun phrase asks of an object; None asks nothing. Values are first names."""

    count: int | None = None
    """A number that must be met exactly, or None for "at least one"."""
    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    texture: str | None = None


@dataclass(frozen=True)
class Claim:
    """The subject exists, and each relation holds between it and some object of its phrase."""

    subject: Phrase
    relations: tuple[tuple[str, Phrase], ...] = ()


def parse(sentence: str) -> tuple[Claim, ...] | None:
    """Return the claims of a sentence, or None if it is outside of the grammar."""
    tokens = _TOKEN.findall(sentence.lower())
    if tokens and tokens[-1] == ".":
        tokens.pop()
    try:
        return _Parser(tokens).sentence()
    except _OutsideGrammarError:
        return None


class _OutsideGrammarError(Exception):
    """The parser met a token that cannot stand where it stands."""


class _Parser:
    """Recursive descent with one token of look-ahead."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    @property
    def token(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *accepted: str) -> bool:
        """Step over the next token if it is one of these."""
        found = self.token in accepted
        self.at += found
        return found

    def need(self, *accepted: str) -> None:
        if not self.take(*accepted):
            raise _OutsideGrammarError

    def sentence(self) -> tuple[Claim, ...]:
        self.picture()
        claims = [self.claim()]
        while self.token:
            if self.take(",", ":", ";"):
                self.take("and", "while")
            else:
                self.need("and", "while", "including")
            claims.append(self.claim())
        return tuple(claims)

    def picture(self) -> None:
        if len(self.tokens) > 1 and self.tokens[1] in _PICTURES:
            self.need("a", "an", "the", "this")
            self.need(*_PICTURES)
            self.need("of", "shows")

    def claim(self) -> Claim:
        if self.starts_relation():
            relation, place = self.relation(), self.phrase()
            if not self.there():
                self.take(*_BE)
            return Claim(self.phrase(), ((relation, place),))
        said_there = self.there()
        subject = self.phrase()
        if self.take("with"):
            other, relation = self.phrase(), self.relation()
            self.need("it", "them")
            return Claim(other, ((relation, subject),))
        if self.take(*_BE):
            if not self.starts_relation() and not said_there:
                return Claim(self.attribute(subject))
            return Claim(subject, self.relations())
        return Claim(subject, self.relations() if self.starts_relation() else ())

    def relations(self) -> tuple[tuple[str, Phrase], ...]:
        found = [(self.relation(), self.phrase())]
        while True:
            before = self.at
            self.take(",")
            if not (self.take("and") and self.starts_relation()):
                self.at = before
                return tuple(found)
            # "and above a star there is a ball" starts a claim of its own.
            pair = self.relation(), self.phrase()
            if self.token in {"there", *_BE}:
                self.at = before
                return tuple(found)
            found.append(pair)

    def there(self) -> bool:
        if not self.take("there"):
            return False
        self.need(*_BE)
        return True

    def starts_relation(self) -> bool:
        entry = LEXICON.get(self.token)
        return self.token in {"to", "on"} or (entry is not None and entry.kind == "relation")

    def relation(self) -> str:
        if self.take("to", "on"):
            self.need("the")
            if self.token not in {"left", "right"}:
                raise _OutsideGrammarError
        entry = LEXICON.get(self.token)
        if entry is None or entry.kind != "relation":
            raise _OutsideGrammarError
        self.at += 1
        if entry.meaning in {"left", "right"}:
            self.need("of")
        return entry.meaning

    def attribute(self, subject: Phrase) -> Phrase:
        """Read the adjective of "the ball is red" into the subject."""
        entry = LEXICON.get(self.token)
        if entry is None or entry.kind not in {"colour", "size", "texture"}:
            raise _OutsideGrammarError
        return self.with_adjective(subject, entry.kind, entry.meaning)

    def with_adjective(self, phrase: Phrase, kind: str, meaning: str) -> Phrase:
        if getattr(phrase, kind) is not None:
            raise _OutsideGrammarError
        self.at += 1
        values: dict[str, Any] = {kind: meaning}
        return replace(phrase, **values)

    def phrase(self) -> Phrase:
        phrase = Phrase()
        if self.token in COUNTS:
            phrase = Phrase(count=COUNTS[self.token])
            self.at += 1
        else:
            self.take(*_ARTICLES)
        while True:
            if self.take(*_NOUNS):
                return phrase
            entry = LEXICON.get(self.token)
            if entry is None or entry.kind not in {"colour", "size", "texture", "shape"}:
                raise _OutsideGrammarError
            phrase = self.with_adjective(phrase, entry.kind, entry.meaning)
            if entry.kind == "shape":
                return phrase
