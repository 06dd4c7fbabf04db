"""What is in a scene: two to five objects, as a function of (seed, index)."""

import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from vilta.scenes.words import COLOURS, SHAPES, SIZES, TEXTURES

RGB = tuple[int, int, int]

PALETTE: dict[str, RGB] = {
    "red": (214, 34, 40),
    "green": (38, 148, 62),
    "blue": (36, 76, 214),
    "yellow": (250, 214, 30),
    "orange": (250, 128, 20),
    "purple": (126, 48, 172),
    "pink": (250, 136, 190),
    "brown": (122, 70, 32),
    "black": (26, 26, 30),
    "white": (253, 253, 253),
    "gray": (128, 132, 136),
    "cyan": (48, 204, 222),
}
"""The colour of each first name before the jitter; far apart so that no two can be confused."""

JITTER = 6
"""Each channel of an object's colour moves by at most this much."""

BACKGROUNDS: tuple[RGB, ...] = (
    (226, 220, 206),
    (208, 220, 228),
    (212, 224, 208),
    (228, 214, 218),
    (218, 214, 230),
)

NUMBERS = (2, 2, 2, 2, 3, 3, 3, 4, 5)
"""How many objects a scene holds; drawn evenly from these."""

LANES = (0.21, 0.5, 0.79)
"""Objects are placed in a grid of three by three lanes (centres, in shares of the side) ..."""

WOBBLE = 0.045
"""... each moved by at most this much. So two objects differ along an axis by at most 0.09 (same
lane) or at least 0.2, and no spatial relation is ever a close call."""

MARGIN = 0.15
"""``left``, ``right``, ``above`` and ``below`` hold from this distance of the centres on, along
their own axis alone, in shares of the side. It lies in the middle of the gap above."""

_ID = re.compile(r"scene-(\d+)-(\d+)")


class Draws(random.Random):
    """Random draws that are a function of (seed, index, stream) on every platform.

    They come from the counter-based Philox generator, whose raw words numpy keeps stable.
    """

    def __new__(cls, *_: int, **__: int) -> "Draws":
        """Make the object; the base class would try to seed itself with the numbers."""
        return super().__new__(cls)

    def __init__(self, seed: int, index: int, stream: int = 0) -> None:
        key = np.array([seed, index], dtype=np.uint64)
        counter = np.array([0, 0, 0, stream], dtype=np.uint64)
        self._source = np.random.Philox(key=key, counter=counter)
        self._words: list[int] = []

    def _next(self) -> int:
        if not self._words:
            self._words = self._source.random_raw(64).tolist()
        return self._words.pop()

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return (self._next() >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """Return ``k`` <= 64 random bits; all that choices among a few things ask for."""
        return self._next() >> (64 - k)

    def seed(self, *_: Any) -> None:
        """Do nothing: the seed is given once, at the start."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object. Attributes are first names; ``x`` runs right and ``y`` down, both in [0, 1]."""

    colour: str
    shape: str
    size: str
    texture: str
    x: float
    y: float
    turn: int = 0
    """Rotation in degrees."""
    rgb: RGB = (0, 0, 0)
    """The colour as drawn: the palette's, jittered."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's content. Everything else (pixels, captions, truth) follows from it."""

    seed: int
    index: int
    things: tuple[Thing, ...]
    background: tuple[RGB, RGB]
    """Colour at the top and at the bottom."""

    @property
    def image_id(self) -> str:
        """The id that :func:`scene_from_id` reads."""
        return f"scene-{self.seed}-{self.index}"


def make_scene(seed: int, index: int) -> Scene:
    """Return scene ``index`` of split ``seed``; other seeds are disjoint splits.

    Raises:
        ValueError: if ``seed`` or ``index`` is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"a scene needs seed >= 0 and index >= 0, got {seed} and {index}")
    rng = Draws(seed, index)
    cells = [(x, y) for x in LANES for y in LANES]
    rng.shuffle(cells)
    things: list[Thing] = []
    for x, y in cells[: rng.choice(NUMBERS)]:
        things.append(_thing(rng, x, y, things))
    base = rng.choice(BACKGROUNDS)
    top = _moved(base, rng.randint(0, 14), rng)
    bottom = _moved(base, rng.randint(-24, -8), rng)
    return Scene(seed=seed, index=index, things=tuple(things), background=(top, bottom))


def scene_from_id(image_id: str) -> Scene:
    """Return the scene with this image id, e.g. ``scene-0-17``.

    Raises:
        ValueError: if the id is not one of a scene.
    """
    found = _ID.fullmatch(image_id)
    if found is None:
        raise ValueError(f"{image_id!r} is not a scene; ids look like scene-SEED-INDEX")
    return make_scene(int(found[1]), int(found[2]))


def _thing(rng: Draws, x: float, y: float, others: list[Thing]) -> Thing:
    # A third of the later objects shares colour, shape or both with an earlier one: without
    # them there would be little to count, and a colour alone would often identify the object.
    shared = rng.choice(("colour", "shape", "both")) if others and rng.random() < 0.33 else ""
    other = rng.choice(others) if shared else None
    colour = other.colour if other and shared != "shape" else rng.choice(tuple(COLOURS))
    shape = other.shape if other and shared != "colour" else rng.choice(tuple(SHAPES))
    return Thing(
        colour=colour,
        shape=shape,
        size=rng.choice(tuple(SIZES)),
        texture=rng.choice(("plain", *TEXTURES)),  # half plain: shapes are clearest then
        x=x + rng.uniform(-WOBBLE, WOBBLE),
        y=y + rng.uniform(-WOBBLE, WOBBLE),
        turn=rng.choice((-12, -6, 0, 6, 12)),
        rgb=_moved(PALETTE[colour], 0, rng),
    )


def _moved(colour: RGB, by: int, rng: Draws) -> RGB:
    red, green, blue = (
        min(255, max(0, value + by + rng.randint(-JITTER, JITTER))) for value in colour
    )
    return red, green, blue
