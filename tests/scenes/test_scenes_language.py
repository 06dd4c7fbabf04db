"""The language of the scenes: captions, the oracle, edits."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilta import scenes

any_scene = st.builds(scenes.make_scene, st.integers(0, 2**40), st.integers(0, 2**40))
# The checker of types in tests draws from the global random state, which hypothesis remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
ATTRIBUTES = {
    "size": scenes.SIZES,
    "texture": scenes.TEXTURES,
    "colour": scenes.COLOURS,
    "shape": scenes.SHAPES,
}


def scene_of(*descriptions):
    """Build a scene from "small plain red ball 0.2 0.8" (x, y)."""
    things = []
    for description in descriptions:
        size, texture, colour, shape, x, y = description.split()
        values = dict(size=size, texture=texture, colour=colour, shape=shape)
        things.append(scenes.Thing(**values, x=float(x), y=float(y)))
    return scenes.Scene(seed=0, index=0, things=tuple(things), background=((0, 0, 0),) * 2)


PAIR = scene_of("small plain red ball 0.2 0.5", "large striped blue square 0.8 0.5")
THREE = scene_of(
    "small plain red ball 0.2 0.2",
    "large striped red ball 0.8 0.2",
    "medium spotted green star 0.5 0.8",
)


# --- captions -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(any_scene)
def test_captions_are_true_and_different(scene):
    found = scenes.captions(scene)
    assert len(found) == len(set(found)) == 5
    for caption in found:
        assert scenes.is_true(scene, caption), caption
        words = caption.split()
        for this, following in pairwise(words):
            if this in ("a", "an"):
                assert (this == "an") == (following[0] in "aeiou"), caption


def test_about_half_of_the_captions_tell_a_colour():
    found = [c for i in range(200) for c in scenes.captions(scenes.make_scene(3, i))]
    coloured = sum(scenes.masked_colour(c, random.Random(0)) is not None for c in found)
    assert 0.45 < coloured / len(found) < 0.6


def test_captions_fit_few_other_scenes():
    """Retrieval must be learnable: most captions with colours hold for one scene in hundreds."""
    others = [scenes.make_scene(1, i) for i in range(300)]
    fits = []
    for index in range(40):
        for caption in scenes.captions(scenes.make_scene(0, index)):
            claims = scenes.parse(caption)
            assert claims is not None
            if scenes.masked_colour(caption, random.Random(0)) is not None:
                fits.append(sum(scenes.holds(other, claims) for other in others))
    assert len(fits) > 80
    assert sum(n == 0 for n in fits) > 0.75 * len(fits)
    assert sum(fits) < 0.005 * len(fits) * len(others)


def test_captions_come_in_many_constructions():
    found = [c for i in range(100) for c in scenes.captions(scenes.make_scene(2, i))]
    for pattern in (
        "^there is", "of it$", " is to the left of ", "^two [a-z]+s",
        "^two .*s (above|below|to the) ", "including", ": an?", "^(the|an?) picture",
        "^the .* is .* and the", "and (above|below) ",
        "^[a-z]+ [a-z]+, ", "there is an? .*", ", and ",
    ):  # fmt: skip
        assert any(re.search(pattern, c) for c in found), pattern
    lengths = {len(c.split()) for c in found}
    assert min(lengths) <= 4 and max(lengths) >= 16 and max(lengths) <= 36


def test_more_captions_on_request():
    assert len(set(scenes.captions(scenes.make_scene(0, 0), 40))) == 40
    assert len(scenes.captions(scenes.make_scene(0, 0), 1)) == 1
    with pytest.raises(ValueError, match="at least one"):
        scenes.captions(scenes.make_scene(0, 0), 0)


# --- the oracle -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene", "sentence", "truth"),
    [
        (PAIR, "a red ball to the left of a blue square", True),
        (PAIR, "A Crimson Sphere left of a huge stripy cobalt box.", True),
        (PAIR, "a red ball to the right of a blue square", False),
        (PAIR, "a red ball above a blue square", False),
        (PAIR, "to the right of a ball is a cube", True),
        (PAIR, "a red ball with a blue square to the right of it", True),
        (PAIR, "a red ball with a blue square to the left of it", False),
        (PAIR, "two objects : a tiny red ball and a blue square .", True),
        (PAIR, "three objects", False),
        (PAIR, "two ball", False),
        (PAIR, "one balls", True),
        (PAIR, "a orange star", False),
        (PAIR, "the ball is red and the square is striped", True),
        (PAIR, "the ball is red and the square is plain", False),
        (PAIR, "a ball and a ball", False),
        (PAIR, "a red ball and a small ball", False),
        (THREE, "a red ball and a small ball", True),
        (THREE, "a red ball left of a red ball", True),
        (THREE, "two red balls above a green star", True),
        (THREE, "two red balls left of a green star", False),
        (THREE, "a star below two balls and right of a tiny circle", True),
        (THREE, "one red ball", False),
        (THREE, "a red ball", True),
        (THREE, "there are three items including a star", True),
        (THREE, "a ball above a star, and above a star there is a large ball", False),
        (THREE, "a ball right of a ball, and below a ball there is a dotted star", False),
        (THREE, "a large ball right of a ball", True),
    ],
)
def test_truth_by_hand(scene, sentence, truth):
    assert scenes.is_true(scene, sentence) is truth


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        ".",
        "a red red ball",
        "a red crimson ball",
        "a red",
        "a ball the red",
        "red",
        "a red dog",
        "a red ball left a blue square",
        "a red ball to the above of a star",
        "a red ball and",
        "a red ball and above",
        "a ball, , a star",
        "the red ball is red",
        "a ball is two",
        "a ball with a star above",
        "un ballon rouge",
        "a red ball [MASK] a star",
        "is a ball",
        "a picture",
        "a picture of",
    ],
)
def test_outside_of_the_grammar(sentence):
    assert scenes.parse(sentence) is None
    with pytest.raises(ValueError, match="grammar"):
        scenes.is_true(PAIR, sentence)


@given(st.lists(st.sampled_from([*scenes.vocabulary(), ",", ".", ":", "[MASK]"]), max_size=12))
def test_any_text_is_either_parsed_or_refused(tokens):
    claims = scenes.parse(" ".join(tokens))
    if claims is not None:
        scenes.is_true(THREE, " ".join(tokens))


@settings(max_examples=60, deadline=None)
@given(any_scene)
def test_spacing_and_case_as_a_tokenizer_leaves_them_mean_the_same(scene):
    for caption in scenes.captions(scene):
        spaced = re.sub(r"([,:.])", r" \1 ", caption)
        claims = scenes.parse(caption)
        assert claims is not None
        assert claims == scenes.parse(spaced) == scenes.parse(caption.upper() + ".")


@st.composite
def statements(draw):
    """Two noun phrases and perhaps a relation, as data; attributes near those of ``scene``."""
    scene = draw(any_scene)
    phrases = []
    for _ in range(2):
        model = draw(st.sampled_from(scene.things))
        wanted = {}
        for name, table in ATTRIBUTES.items():
            if draw(st.booleans()):
                stray = draw(st.integers(0, 5)) == 0
                wanted[name] = draw(st.sampled_from(list(table))) if stray else getattr(model, name)
        phrases.append((draw(st.sampled_from([None, None, 1, 2, 3])), wanted))
    return scene, phrases, draw(st.sampled_from([None, "left", "right", "above", "below"]))


def say(phrase, rng):
    count, wanted = phrase
    words = ["a" if count is None else ("one", "two", "three")[count - 1]]
    words += [rng.choice(ATTRIBUTES[n][wanted[n]]) for n in ATTRIBUTES if n in wanted]
    return " ".join(words if "shape" in wanted else [*words, "thing"])


def slow_truth(scene, phrases, relation):
    """Try every way to point at objects; written apart from the oracle, from its description."""

    def fits(thing, wanted):
        return all(getattr(thing, name) == value for name, value in wanted.items())

    def stands(a, b):
        dx, dy = b.x - a.x, b.y - a.y
        return {
            None: True,
            "left": dx >= scenes.MARGIN,
            "right": dx <= -scenes.MARGIN,
            "above": dy >= scenes.MARGIN,
            "below": dy <= -scenes.MARGIN,
        }[relation]

    groups = []
    for count, wanted in phrases:
        fitting = [t for t in scene.things if fits(t, wanted)]
        if count is None:
            groups.append([[t] for t in fitting])
        else:
            groups.append([fitting] if len(fitting) == count else [])
    articles = all(count is None for count, _ in phrases)
    return any(
        all(stands(a, b) for a in first for b in second)
        and not (articles and first[0] is second[0])
        for first in groups[0]
        for second in groups[1]
    )


@settings(max_examples=400, deadline=None)
@given(statements(), st.integers(0, 99))
def test_the_oracle_agrees_with_a_slow_one(statement, seed):
    scene, phrases, relation = statement
    rng = random.Random(seed)
    link = {"left": "to the left of", "right": "right of", None: "and"}.get(relation)
    link = link or rng.choice(scenes.RELATIONS[relation])
    sentence = f"{say(phrases[0], rng)} {link} {say(phrases[1], rng)}"
    assert scenes.is_true(scene, sentence) == slow_truth(scene, phrases, relation), sentence


# --- edits ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(any_scene, st.integers(0, 99))
def test_edits_change_one_content_word_and_are_false(scene, seed):
    rng = random.Random(seed)
    for caption in scenes.captions(scene):
        edits = scenes.one_word_edits(scene, caption, rng, count=3)
        assert len(edits) == len(set(edits)) == 3
        for edit in edits:
            assert scenes.is_true(scene, edit) is False
            pairs = zip(re.findall(r"\w+", caption), re.findall(r"\w+", edit), strict=True)
            changed = [(old, new) for old, new in pairs if old != new]
            assert len(changed) == 1
            old, new = changed[0]
            assert scenes.word_class(old) == scenes.word_class(new) is not None
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", edit), edit


def test_edits_touch_every_class_of_word():
    kinds = set()
    for index in range(100):
        scene = scenes.make_scene(9, index)
        for caption in scenes.captions(scene):
            for edit in scenes.one_word_edits(scene, caption, random.Random(index)):
                pairs = zip(re.findall(r"\w+", caption), re.findall(r"\w+", edit), strict=True)
                kinds |= {scenes.word_class(old) for old, new in pairs if old != new}
    assert kinds == {"colour", "shape", "size", "texture", "relation", "count"}


def test_all_edits_come_when_many_are_asked_for():
    edits = scenes.one_word_edits(PAIR, "a red ball", random.Random(0), count=99)
    assert 15 <= len(edits) <= 20


@settings(max_examples=60, deadline=None)
@given(any_scene, st.integers(0, 99))
def test_paraphrases_mean_the_same(scene, seed):
    for caption in scenes.captions(scene):
        for paraphrase in scenes.paraphrases(caption, random.Random(seed), count=3):
            assert paraphrase != caption
            assert scenes.parse(paraphrase) == scenes.parse(caption)
            assert scenes.is_true(scene, paraphrase)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", paraphrase), paraphrase
    assert scenes.paraphrases("a star and a heart", random.Random(0)) == []


@settings(max_examples=60, deadline=None)
@given(any_scene, st.integers(0, 99))
def test_a_masked_colour_can_be_put_back(scene, seed):
    for caption in scenes.captions(scene):
        found = scenes.masked_colour(caption, random.Random(seed))
        if found is not None:
            before, colour, after = found
            assert before + colour + after == caption
            assert scenes.word_class(colour) == "colour"
            assert all(scenes.is_true(scene, before + s + after) for s in scenes.synonyms(colour))
    assert scenes.masked_colour("two stars", random.Random(0)) is None


def test_a_wrong_colour_in_the_gap_is_mostly_false():
    wrong = []
    for index in range(100):
        scene = scenes.make_scene(4, index)
        for caption in scenes.captions(scene):
            found = scenes.masked_colour(caption, random.Random(index))
            if found is not None:
                others = [
                    c for c in scenes.COLOURS if c not in (found[1], *scenes.synonyms(found[1]))
                ]
                wrong += [scenes.is_true(scene, found[0] + c + found[2]) for c in others]
    assert sum(wrong) < 0.05 * len(wrong)
