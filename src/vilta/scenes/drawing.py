"""Pixels of a scene. Each object is a small pre-computed sprite, laid over a soft background.

A sprite is made once per (shape, size, texture, turn) and picture size by evaluating formulas on
a grid that is eight times finer than the pixels, hence the smooth edges.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from vilta.scenes.world import PALETTE, RGB, Scene, Thing, scene_from_id

SUPERSAMPLING = 8
DIAMETER = {"small": 0.2, "medium": 0.26, "large": 0.33}
"""Width of an object in shares of the side: 19, 25 and 32 pixels at 96."""
PITCH = {"small": 0.05, "medium": 0.068, "large": 0.082}
"""Distance between two stripes or two spots in shares of the side."""
RIM = 0.05
"""Stripes and spots end this share of the diameter before the edge, which keeps the outline."""
SHADOW_SHIFT, SHADOW_BLUR, SHADOW = 0.018, 0.014, 0.30

Grid = Float[ndarray, "S S"]
Mask = Bool[ndarray, "S S"]
Layer = Float[ndarray, "N N 1"]


def _star(x: Grid, y: Grid) -> Mask:
    # Fold the plane into one half of one of five points; the edge is a straight line there.
    step = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + step / 2) % step - step / 2)
    radius = np.hypot(x, y)
    inner, tip = 0.52, 1.08
    ax, ay = radius * np.cos(angle), radius * np.sin(angle)
    bx, by = inner * np.cos(step / 2), inner * np.sin(step / 2)
    inside: Mask = (ax - tip) * by < ay * (bx - tip)
    return inside


SHAPE_FORMULAS: dict[str, Callable[[Grid, Grid], Mask]] = {
    "ball": lambda x, y: x**2 + y**2 < 0.92**2,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.84,
    "triangle": lambda x, y: (y < 0.8) & (y > 1.78 * abs(x) - 0.98),
    "star": _star,
    "heart": lambda x, y: (
        ((1.1 * x) ** 2 + (0.12 - 1.1 * y) ** 2 - 0.85) ** 3
        < (1.1 * x) ** 2 * (0.12 - 1.1 * y) ** 3 * 1.2
    ),
    "diamond": lambda x, y: abs(x) / 0.76 + abs(y) < 1.06,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.32) & (np.maximum(abs(x), abs(y)) < 0.95),
    "ring": lambda x, y: abs(np.hypot(x, y) - 0.72) < 0.27,
    "moon": lambda x, y: (
        ((x - 0.1) ** 2 + y**2 < 0.96**2) & ((x - 0.52) ** 2 + (y + 0.1) ** 2 > 0.68**2)
    ),
    "arrow": lambda x, y: (
        ((abs(y) < 0.36) & (x > -0.95) & (x < 0.2)) | ((x > 0) & (x + 1.05 * abs(y) < 0.98))
    ),
}
"""Shape -> whether the points (x right, y down, the object about [-1, 1] wide) are inside."""

TEXTURE_FORMULAS: dict[str, Callable[[Grid, Grid], Mask]] = {
    "plain": lambda x, y: np.zeros(x.shape, dtype=bool),
    "striped": lambda x, y: (0.6 * x + 0.8 * y + 0.22) % 1.0 < 0.44,
    "spotted": lambda x, y: (
        ((x + 0.5 * (np.floor(y + 0.5) % 2) + 0.5) % 1.0 - 0.5) ** 2 + ((y + 0.5) % 1.0 - 0.5) ** 2
        < 0.3**2
    ),
}
"""Texture -> where the second colour is; x and y count stripes or spots."""


CARD, BORDER = 0.11, 0.014
"""Half the side of the card that hides an object, and its border, in shares of the side."""
CARD_COLOUR, BORDER_COLOUR = (196, 170, 130), (132, 108, 76)


def draw(scene: Scene, size: int = 96, hidden: int | None = None) -> UInt8[ndarray, "H W 3"]:
    """Return the picture of a scene, ``size`` pixels high and wide, RGB.

    Object ``hidden`` is covered by a card, the same for every object.

    Raises:
        ValueError: if ``size`` is under 16 pixels.
    """
    if size < 16:
        raise ValueError(f"a scene needs at least 16 pixels a side, got {size}")
    top, bottom = (np.array(colour, dtype=np.float32) for colour in scene.background)
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    picture = np.repeat(top * (1 - ramp) + bottom * ramp, size, axis=1)
    shown = [thing for number, thing in enumerate(scene.things) if number != hidden]
    for thing in sorted(shown, key=lambda thing: -DIAMETER[thing.size]):  # small on top
        keep, base, accent = sprite(thing.shape, thing.size, thing.texture, thing.turn, size)
        rows, inside_rows = _span(thing.y, len(keep), size)
        columns, inside_columns = _span(thing.x, len(keep), size)
        inside = inside_rows, inside_columns
        patch = picture[rows, columns]
        patch *= keep[inside]
        patch += base[inside] * np.array(thing.rgb, dtype=np.float32)
        if thing.texture != "plain":
            patch += accent[inside] * np.array(accent_colour(thing), dtype=np.float32)
    if hidden is not None:
        _lay_card(picture, scene.things[hidden])
    return (picture + 0.5).astype(np.uint8)


def picture_from_id(image_id: str, size: int = 96) -> UInt8[ndarray, "H W 3"]:
    """Draw the picture with this id: a scene's, with ``-hidden-K`` if object K is hidden.

    Raises:
        ValueError: if the id is not one of a picture.
    """
    name, _, number = image_id.partition("-hidden-")
    scene = scene_from_id(name)
    if not number:
        return draw(scene, size)
    if not number.isdecimal() or int(number) >= len(scene.things):
        raise ValueError(f"{image_id!r} hides an object that is not in the scene")
    return draw(scene, size, hidden=int(number))


def picture_id(scene: Scene, hidden: int | None = None) -> str:
    """Return the id that :func:`picture_from_id` reads."""
    return scene.image_id if hidden is None else f"{scene.image_id}-hidden-{hidden}"


def _lay_card(picture: Float[ndarray, "H W 3"], thing: Thing) -> None:
    side = len(picture)
    for reach, colour in ((CARD, BORDER_COLOUR), (CARD - BORDER, CARD_COLOUR)):
        top, bottom = (round((thing.y + d) * side) for d in (-reach, reach))
        left, right = (round((thing.x + d) * side) for d in (-reach, reach))
        picture[max(top, 0) : bottom, max(left, 0) : right] = colour


def cover(thing: Thing, size: int = 96) -> Float[ndarray, "H W"]:
    """Return the share of each pixel that shows the object's own colour, from 0 to 1."""
    _, base, _ = sprite(thing.shape, thing.size, thing.texture, thing.turn, size)
    picture = np.zeros((size, size), dtype=np.float32)
    rows, inside_rows = _span(thing.y, len(base), size)
    columns, inside_columns = _span(thing.x, len(base), size)
    picture[rows, columns] = base[inside_rows, inside_columns, 0]
    return picture


def accent_colour(thing: Thing) -> RGB:
    """Return the colour of stripes and spots: lighter on dark objects, darker on light ones."""
    red, green, blue = PALETTE[thing.colour]
    light = 0.3 * red + 0.59 * green + 0.11 * blue > 120
    toward, by = (0, 0.5) if light else (255, 0.62)
    mixed = [round(value + by * (toward - value)) for value in thing.rgb]
    return mixed[0], mixed[1], mixed[2]


@lru_cache(maxsize=4096)
def sprite(shape: str, size: str, texture: str, turn: int, side: int) -> tuple[Layer, Layer, Layer]:
    """Return how much of (background, first colour, second colour) each pixel shows."""
    reach = round((DIAMETER[size] / 2 + SHADOW_SHIFT + 2 * SHADOW_BLUR) * side) + 1
    pixels = 2 * reach + 1
    fine = (np.arange(pixels * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - pixels / 2
    fine /= side  # now in shares of the picture's side, 0 at the middle of the sprite
    angle = np.deg2rad(turn)
    right, down = np.meshgrid(fine, fine)
    x = right * np.cos(angle) + down * np.sin(angle)
    y = down * np.cos(angle) - right * np.sin(angle)
    radius = DIAMETER[size] / 2
    inside = SHAPE_FORMULAS[shape](x / radius, y / radius)
    core = _shrunk(inside, round(RIM * DIAMETER[size] * side * SUPERSAMPLING))
    second = core & TEXTURE_FORMULAS[texture](x / PITCH[size], y / PITCH[size])
    opaque, accent = _average(inside), _average(second)
    shadow = SHADOW * _shadow(opaque, side)
    keep = (1 - shadow) * (1 - opaque)
    layers = [layer[..., None].astype(np.float32) for layer in (keep, opaque - accent, accent)]
    return layers[0], layers[1], layers[2]


def _shrunk(inside: Mask, by: int) -> Mask:
    diagonal = round(by * 0.7)
    shifts = [(by, 0), (-by, 0), (0, by), (0, -by)]
    shifts += [(down, right) for down in (diagonal, -diagonal) for right in (diagonal, -diagonal)]
    core: Mask = np.logical_and.reduce([inside, *(np.roll(inside, s, (0, 1)) for s in shifts)])
    return core


def _average(fine: Mask) -> Float[ndarray, "N N"]:
    cells = len(fine) // SUPERSAMPLING
    blocks = fine.reshape(cells, SUPERSAMPLING, cells, SUPERSAMPLING)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _shadow(opaque: Float[ndarray, "N N"], side: int) -> Float[ndarray, "N N"]:
    """Return the object's outline moved right and down, and blurred along both axes."""
    at = np.arange(len(opaque))
    shift = at[:, None] - at[None, :] - SHADOW_SHIFT * side
    blur = np.exp(-0.5 * (shift / (SHADOW_BLUR * side)) ** 2)
    blur /= blur.sum(axis=0).max()
    return np.asarray(blur @ opaque @ blur.T)


def _span(centre: float, length: int, size: int) -> tuple[slice, slice]:
    """Return where a sprite is along one axis: in the picture, and which part of the sprite."""
    start = round(centre * size - 0.5) - length // 2
    first, last = max(start, 0), min(start + length, size)
    return slice(first, last), slice(first - start, last - start)
