"""What ARO's files do not hold: shuffled captions, and which relations its authors leave out.

Source of all of it: mertyg/vision-language-models-are-bows (arXiv 2210.01936).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from vilta.data.parts_of_speech import parts_of_speech

ORDER_FILES = ("coco_karpathy_test", "coco_karpathy_val", "flickr30k_test", "flickr30k_val")
"""Names of the caption files that ARO's order is made from (dataset_zoo/aro_datasets.py)."""
DROPPED = re.compile(r'[.!"()*#:;~]')
MOST_WORDS = 30
"""What ARO removes from captions, and how many words it keeps (dataset_zoo/retrieval.py)."""
NOUNS = ("noun", "name")

SYMMETRIC_RELATIONS = frozenset(
    " ".join(name.split())
    for name in """
    adjusting, attached to, between, bigger than, biting, boarding, brushing, chewing, cleaning,
    climbing, close to, coming from, coming out of, contain, crossing, dragging, draped over,
    drinking, drinking from, driving, driving down, driving on, eating from, eating in, enclosing,
    exiting, facing, filled with, floating in, floating on, flying, flying above, flying in,
    flying over, flying through, full of, going down, going into, going through, grazing in,
    growing in, growing on, guiding, hanging from, hanging in, hanging off, hanging over,
    higher than, holding onto, hugging, in between, jumping off, jumping on, jumping over, kept in,
    larger than, leading, leaning over, leaving, licking, longer than, looking in, looking into,
    looking out, looking over, looking through, lying next to, lying on top of, making, mixed with,
    mounted on, moving, on the back of, on the edge of, on the front of, on the other side of,
    opening, painted on, parked at, parked beside, parked by, parked in, parked in front of,
    parked near, parked next to, perched on, petting, piled on, playing, playing in, playing on,
    playing with, pouring, reaching for, reading, reflected on, riding on, running in, running on,
    running through, seen through, sitting behind, sitting beside, sitting by, sitting in front of,
    sitting near, sitting next to, sitting under, skiing down, skiing on, sleeping in, sleeping on,
    smiling at, sniffing, splashing, sprinkled on, stacked on, standing against, standing around,
    standing behind, standing beside, standing in front of, standing near, standing next to,
    staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with, touching,
    traveling down, traveling on, tying, typing on, underneath, wading in, waiting for,
    walking across, walking by, walking down, walking next to, walking through, working in,
    working on, worn on, wrapped around, wrapped in, by, of, near, next to, with, beside,
    on the side of, around
    """.split(",")  # noqa: SIM905
)
"""Relations outside the macro mean; the name is the authors', who list others than symmetric ones
too (notebooks/Replicate ARO! VG-Relation, VG-Attribution.ipynb)."""


def order_texts(caption: str) -> list[str]:
    """Return the caption as ARO writes it, and its shuffles, the same at every call.

    Nouns among themselves and adjectives among themselves; all other words; words within each
    trigram; trigrams. A shuffle that gives the caption again is left out: it is not wrong. (In
    ARO it ties with the caption, which comes first and wins.) Raises ``ValueError`` if the Hanover
    Tagger, used in place of ARO's spaCy, is not installed.
    """
    kept = DROPPED.sub(" ", caption.lower()).split()[:MOST_WORDS]
    words = re.findall(r"[^\s,?]+|[,?]", " ".join(kept))
    parts = parts_of_speech(words)
    nouns = [i for i, part in enumerate(parts) if part in NOUNS]
    adjectives = [i for i, part in enumerate(parts) if part == "adjective"]
    others = [i for i in range(len(words)) if i not in nouns and i not in adjectives]
    trigrams = [list(range(i, min(i + 3, len(words)))) for i in range(0, len(words), 3)]

    draw = random.Random(caption)  # a seed of text does not depend on the process
    orders = [
        _permuted(len(words), [nouns, adjectives], draw),
        _permuted(len(words), [others], draw),
        _permuted(len(words), trigrams, draw),
        [i for trigram in draw.sample(trigrams, len(trigrams)) for i in trigram],
    ]
    true, *wrong = (_joined([words[i] for i in order]) for order in [range(len(words)), *orders])
    return [true, *(text for text in wrong if text != true)]


def _permuted(count: int, groups: list[list[int]], draw: random.Random) -> list[int]:
    """Return the places 0, 1, ..., each group's shuffled among themselves."""
    order = list(range(count))
    for group in groups:
        for place, source in zip(group, draw.sample(group, len(group)), strict=True):
            order[place] = source
    return order


def _joined(words: Sequence[str]) -> str:
    """Remove spaces before punctuation, which would give away the shuffled captions."""
    return re.sub(r" ([,?])", r"\1", " ".join(words))
