"""The built-in data: small pictures of coloured shapes, and what is true of them.

A scene is a function of (seed, index); :func:`draw` gives its picture, :func:`captions` what one
may say of it, and :func:`is_true` the truth of any sentence of the grammar about it.
"""

from vilta.data.scenes.captions import captions, vocabulary
from vilta.data.scenes.drawing import cover, draw
from vilta.data.scenes.edits import masked_colour, one_word_edits, paraphrases
from vilta.data.scenes.grammar import Claim, Phrase, parse
from vilta.data.scenes.oracle import holds, is_true
from vilta.data.scenes.table import scenes_table
from vilta.data.scenes.words import (
    COLOURS,
    COUNTS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    synonyms,
    word_class,
)
from vilta.data.scenes.world import MARGIN, PALETTE, Scene, Thing, make_scene, scene_from_id

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
    "Phrase",
    "Scene",
    "Thing",
    "captions",
    "cover",
    "draw",
    "holds",
    "is_true",
    "make_scene",
    "masked_colour",
    "one_word_edits",
    "paraphrases",
    "parse",
    "scene_from_id",
    "scenes_table",
    "synonyms",
    "vocabulary",
    "word_class",
]
