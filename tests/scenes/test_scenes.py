import hashlib
import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilta import scenes
from vilta.scenes import words
from vilta.scenes.world import LANES, WOBBLE, Draws

seeds = st.integers(0, 2**40)
indices = st.integers(0, 2**40)

PINNED_BITS = [64821, 7591, 38896, 61263]
PINNED_CAPTIONS = "86190147cbb47294"
any_scene = st.builds(scenes.make_scene, seeds, indices)
# The checker of types in tests draws from the global random state, which hypothesis remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")


def thing(colour="red", shape="ball", size="small", texture="plain", x=0.5, y=0.5):
    return scenes.Thing(
        colour=colour,
        shape=shape,
        size=size,
        texture=texture,
        x=x,
        y=y,
        rgb=scenes.PALETTE[colour],
    )


def scene_of(*things):
    return scenes.Scene(seed=0, index=0, things=things, background=((220, 220, 220),) * 2)


RED_LEFT_OF_BLUE = scene_of(
    thing("red", "ball", x=0.2), thing("blue", "square", "large", "striped", x=0.8)
)


# --- the world ------------------------------------------------------------------------------


def test_a_scene_is_a_function_of_seed_and_index():
    assert scenes.make_scene(3, 17) == scenes.make_scene(3, 17)
    assert scenes.make_scene(3, 17) != scenes.make_scene(4, 17)
    assert scenes.make_scene(3, 17) != scenes.make_scene(17, 3)
    assert scenes.captions(scenes.make_scene(3, 17)) == scenes.captions(scenes.make_scene(3, 17))


def test_the_raw_draws_never_change():
    """Pins the stream: a change of these numbers changes every picture anyone has made."""
    draws = Draws(7, 5, stream=1)
    assert [draws.getrandbits(16) for _ in range(4)] == PINNED_BITS
    text = repr([scenes.captions(scenes.make_scene(0, i)) for i in range(20)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED_CAPTIONS


@given(any_scene)
def test_image_id_rebuilds_the_scene(scene):
    assert scenes.scene_from_id(scene.image_id) == scene


@pytest.mark.parametrize("image_id", ["", "scene-1", "scene-1-2-3", "scene--1-2", "photo-1-2"])
def test_other_image_ids_are_refused(image_id):
    with pytest.raises(ValueError, match="scene-SEED-INDEX"):
        scenes.scene_from_id(image_id)


@pytest.mark.parametrize("bad", [(-1, 0), (0, -1)])
def test_negative_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=">= 0"):
        scenes.make_scene(*bad)


@given(any_scene)
def test_no_relation_is_a_close_call(scene):
    assert 2 <= len(scene.things) <= 5
    narrow, wide = 2 * WOBBLE, LANES[1] - LANES[0] - 2 * WOBBLE
    assert narrow < scenes.MARGIN < wide
    for first, second in permutations(scene.things, 2):
        apart = [abs(first.x - second.x), abs(first.y - second.y)]
        assert all(d <= narrow + 1e-9 or d >= wide - 1e-9 for d in apart)
        assert max(apart) >= wide - 1e-9


def test_every_attribute_is_about_as_frequent_as_its_fellows():
    things = [t for i in range(1500) for t in scenes.make_scene(0, i).things]
    for name, table in (
        ("colour", scenes.COLOURS),
        ("shape", scenes.SHAPES),
        ("size", scenes.SIZES),
        ("texture", scenes.TEXTURES),
    ):
        counts = {value: sum(getattr(t, name) == value for t in things) for value in table}
        # Half of the objects are plain, in all else the values are alike.
        weights = {value: 2 if value == "plain" else 1 for value in table}
        for value, count in counts.items():
            expected = len(things) * weights[value] / sum(weights.values())
            assert 0.8 * expected < count < 1.2 * expected, counts
    numbers = {len(scenes.make_scene(0, i).things) for i in range(100)}
    assert numbers == {2, 3, 4, 5}


# --- the pictures ---------------------------------------------------------------------------


def test_pictures_are_deterministic_uint8_of_the_size_asked():
    scene = scenes.make_scene(0, 3)
    for size in (16, 64, 97):
        picture = scenes.draw(scene, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert np.array_equal(scenes.draw(scene, 64), scenes.draw(scene, 64))
    with pytest.raises(ValueError, match="16 pixels"):
        scenes.draw(scene, 8)


def test_the_picture_shows_the_named_colour():
    """Where an object shows its first colour fully, the nearest of the palette is its own."""
    palette = np.array(list(scenes.PALETTE.values()), dtype=float)
    for index in range(150):
        scene = scenes.make_scene(1, index)
        picture = scenes.draw(scene, 96)
        for one in scene.things:
            alone = (scenes.cover(one, 96) > 0.99) & ~near_others(scene, one)
            if alone.sum() >= 8:
                mean = picture[alone].mean(axis=0)
                nearest = np.abs(palette - mean).sum(axis=1).argmin()
                assert list(scenes.PALETTE)[nearest] == one.colour, (index, one, mean)


def near_others(scene, one):
    """Pixels that an object other than ``one`` may cover."""
    down, right = (np.mgrid[:96, :96] + 0.5) / 96
    near = np.zeros((96, 96), dtype=bool)
    for other in scene.things:
        if other is not one:
            near |= np.maximum(abs(right - other.x), abs(down - other.y)) < 0.22
    return near


def test_shapes_sizes_and_textures_all_look_different():
    def look(**attributes):
        return scenes.draw(scene_of(thing(**attributes)), 96).astype(int)

    shapes = [look(shape=shape, size="medium") for shape in scenes.SHAPES]
    textures = [look(texture=texture) for texture in scenes.TEXTURES]
    sizes = [look(size=size) for size in scenes.SIZES]
    for group in (shapes, textures, sizes):
        for first, second in permutations(group, 2):
            assert (np.abs(first - second).max(axis=-1) > 60).sum() >= 10
    areas = [scenes.cover(thing(size=size)).sum() for size in scenes.SIZES]
    assert areas[1] > 1.5 * areas[0] and areas[2] > 1.5 * areas[1]


def test_the_objects_stand_where_the_scene_says():
    picture = scenes.draw(RED_LEFT_OF_BLUE, 96).astype(int)
    redness = picture[..., 0] - picture[..., 2]
    assert abs(np.argwhere(redness > 120).mean(axis=0) - [47.5, 0.2 * 96]).max() < 1.5
    assert abs(np.argwhere(redness < -100).mean(axis=0) - [47.5, 0.8 * 96]).max() < 1.5


# --- words ----------------------------------------------------------------------------------


def test_there_are_enough_single_words():
    assert len(scenes.COLOURS) >= 12 and len(scenes.SHAPES) >= 8
    assert len(scenes.SIZES) >= 3 and len(scenes.TEXTURES) >= 3
    assert set(scenes.COLOURS) == set(scenes.PALETTE)
    assert 100 <= len(scenes.vocabulary()) <= 200
    assert all(re.fullmatch("[a-z]+", word) for word in scenes.vocabulary())
    assert all(scenes.synonyms(colour) for colour in scenes.COLOURS)


def test_word_classes_and_synonyms():
    assert scenes.word_class("Crimson") == "colour"
    assert scenes.word_class("boxes") == "shape"
    assert scenes.word_class("under") == "relation"
    assert scenes.word_class("two") == "count"
    assert scenes.word_class("tiny") == "size"
    assert scenes.word_class("dotted") == "texture"
    assert scenes.word_class("object") is None and scenes.word_class("xyzzy") is None
    assert set(scenes.synonyms("little")) == {"small", "tiny"}
    assert set(scenes.synonyms("balls")) == {"circles", "spheres"}
    assert scenes.synonyms("star") == () and scenes.synonyms("xyzzy") == ()


def test_every_surface_word_means_one_thing():
    tables = (words.COLOURS, words.SHAPES, words.SIZES, words.TEXTURES, words.RELATIONS)
    names = [name for table in tables for group in table.values() for name in group]
    assert len(names) == len(set(names))


def test_captions_use_no_word_outside_of_the_vocabulary():
    used: set[str] = set()
    for index in range(400):
        for caption in scenes.captions(scenes.make_scene(5, index)):
            used |= set(re.findall("[a-z]+", caption))
    assert used <= set(scenes.vocabulary())
    assert len(used) > 0.9 * len(scenes.vocabulary())
