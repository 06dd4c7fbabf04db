"""The built-in data: small pictures of coloured shapes, and what is true of them.

A scene is a function of (seed, index); :func:`draw` gives its picture, :func:`captions` what one
may describe it with, and :func:`is_true` the truth of any sentence of the grammar about it.
"""

from vilta.scenes.captions import captions, vocabulary
from vilta.scenes.drawing import cover, draw, picture_from_id, picture_id
from vilta.scenes.edits import masked_colour, one_word_edits, paraphrases
from vilta.scenes.entailment import Hypothesis, hidden_object, hypotheses, verdict
from vilta.scenes.grammar import Claim, Phrase, parse
from vilta.scenes.oracle import holds, is_true
from vilta.scenes.questions import Question, questions
from vilta.scenes.statements import Statement, scene_pair, statements
from vilta.scenes.words import (
    COLOURS,
    COUNTS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    synonyms,
    word_class,
)
from vilta.scenes.world import (
    MARGIN,
    PALETTE,
    Draws,
    Scene,
    Thing,
    make_scene,
    scene_from_id,
)

__all__ = [
    "COLOURS",
    "COUNTS",
    "MARGIN",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "Claim",
    "Draws",
    "Hypothesis",
    "Phrase",
    "Question",
    "Scene",
    "Statement",
    "Thing",
    "captions",
    "cover",
    "draw",
    "hidden_object",
    "holds",
    "hypotheses",
    "is_true",
    "make_scene",
    "masked_colour",
    "one_word_edits",
    "paraphrases",
    "parse",
    "picture_from_id",
    "picture_id",
    "questions",
    "scene_from_id",
    "scene_pair",
    "statements",
    "synonyms",
    "verdict",
    "vocabulary",
    "word_class",
]
