"""Questions, statements and hypotheses about scenes: exact truth, balance, and determinism."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from vilta import scenes
from vilta.scenes import Draws, make_scene, picture_from_id, picture_id
from vilta.scenes.questions import KINDS

FIRST = {}
for table in (scenes.COLOURS, scenes.SHAPES, scenes.SIZES, scenes.TEXTURES):
    for first, names in table.items():
        for name in names:
            FIRST[name] = first
            FIRST[name + ("es" if name.endswith(("s", "x")) else "s")] = first
KIND = {
    **dict.fromkeys(scenes.COLOURS, "colour"),
    **dict.fromkeys(scenes.SHAPES, "shape"),
    **dict.fromkeys(scenes.SIZES, "size"),
    **dict.fromkeys(scenes.TEXTURES, "texture"),
}


def asked(text):
    """The attributes that the words of a text name."""
    values = [FIRST[w] for w in text.strip("?.").split() if w in FIRST]
    return {KIND[v]: v for v in values}


def fitting(scene, wanted):
    return [t for t in scene.things if all(getattr(t, k) == v for k, v in wanted.items())]


def all_questions(count=300):
    for index in range(count):
        scene = make_scene(5, index)
        for question in scenes.questions(scene, Draws(5, index, stream=20), 5):
            yield scene, question


def test_attributes_counts_and_existence_by_hand():
    for scene, q in all_questions():
        found = fitting(scene, asked(q.text))
        if q.kind in ("colour", "shape", "size", "texture"):
            assert {getattr(t, q.kind) for t in found} == {q.answer}, q
        elif q.kind == "count":
            assert str(len(found)) == q.answer, q
        elif q.kind == "existence":
            assert ("yes" if found else "no") == q.answer, q


def test_relations_by_hand():
    axis = {"left": ("x", -1), "right": ("x", 1), "above": ("y", -1), "below": ("y", 1)}
    words = {name: first for first, names in scenes.RELATIONS.items() for name in names}
    seen = Counter()
    for scene, q in all_questions():
        seen[q.kind] += 1
        if q.kind != "relation":
            continue
        tokens = q.text.split()
        at = next(i for i, w in enumerate(tokens) if w in words)
        (first,) = fitting(scene, asked(" ".join(tokens[:at])))
        (second,) = fitting(scene, asked(" ".join(tokens[at + 1 :])))
        place, sign = axis[words[tokens[at]]]
        holds = sign * (getattr(first, place) - getattr(second, place)) > 0
        assert holds == (q.answer == "yes"), q
    assert seen.keys() == KINDS.keys()


def test_yes_and_no_are_as_likely():
    answers = Counter((q.kind, q.answer) for _, q in all_questions(500))
    for kind in ("existence", "relation"):
        yes, no = answers[kind, "yes"], answers[kind, "no"]
        assert 0.4 < yes / (yes + no) < 0.6


def all_statements(count=500):
    for index in range(count):
        left, right = scenes.scene_pair(5, index)
        for statement in scenes.statements(left, right, Draws(5, index, stream=21), 2):
            yield left, right, statement


def truth_of_statement(left, right, text, kind):
    """The meaning of each construction, spelt out anew."""
    numbers = {word: n for word, n in scenes.COUNTS.items()}
    if kind == "sides":
        first, second = text.split(" and the right one ")
        return bool(fitting(left, asked(first)) and fitting(right, asked(second)))
    n_left, n_right = (len(fitting(scene, asked(text))) for scene in (left, right))
    if kind == "both":
        return n_left > 0 < n_right
    if kind == "either":
        return (n_left + n_right > 0) != text.startswith("neither")
    if kind == "only":
        if "one of the" in text:
            return (n_left > 0) != (n_right > 0)
        own, other = (n_left, n_right) if "left" in text else (n_right, n_left)
        return own > 0 and other == 0
    if kind == "more":
        return n_left > n_right if text.index("left") < text.index("right") else n_right > n_left
    return numbers[text.split("exactly ")[1].split()[0]] == n_left + n_right


def test_statements_are_true_or_false_as_labelled_and_balanced():
    labels = {}
    for left, right, s in all_statements():
        assert truth_of_statement(left, right, s.text, s.kind) == s.label, s
        labels.setdefault(s.kind, []).append(s.label)
    for kind, found in labels.items():
        assert 0.4 < np.mean(found) < 0.6, kind


def test_a_statement_can_always_be_made():
    crowded = make_scene(5, 0)
    thing = replace(crowded.things[0], shape="star")
    crowded = replace(crowded, things=(thing,) * 5)
    for index in range(50):
        assert scenes.statements(crowded, crowded, Draws(9, index), 3)


def worlds_by_force(scene, hidden):
    for colour, shape, size, texture in product(
        scenes.COLOURS, scenes.SHAPES, scenes.SIZES, scenes.TEXTURES
    ):
        things = list(scene.things)
        things[hidden] = replace(
            things[hidden], colour=colour, shape=shape, size=size, texture=texture
        )
        yield replace(scene, things=tuple(things))


def test_verdicts_agree_with_every_possible_world():
    checked = Counter()
    for index in range(60):
        scene, rng = make_scene(6, index), Draws(6, index, stream=22)
        hidden = scenes.hidden_object(scene, rng)
        if hidden is None:
            continue
        worlds = list(worlds_by_force(scene, hidden))
        for made in scenes.hypotheses(scene, hidden, rng, 2):
            first, *others = worlds
            truth = scenes.is_true(first, made.text)
            same = all(scenes.is_true(world, made.text) == truth for world in others)
            expected = LABEL[truth] if same else "neutral"
            assert made.label == expected == scenes.verdict(scene, hidden, made.text), made
            checked[made.label] += 1
        if sum(checked.values()) > 40:
            break
    assert min(checked[label] for label in ("neutral", "entailment", "contradiction")) > 2


LABEL = {True: "entailment", False: "contradiction"}


def test_without_a_card_the_oracle_says_all():
    for index in range(60):
        scene, rng = make_scene(6, index), Draws(6, index, stream=22)
        for made in scenes.hypotheses(scene, None, rng, 3):
            assert made.label == LABEL[scenes.is_true(scene, made.text)]


def test_labels_of_hypotheses_are_about_thirds():
    labels = Counter()
    for index in range(500):
        scene, rng = make_scene(6, index), Draws(6, index, stream=22)
        hidden = scenes.hidden_object(scene, rng)
        labels.update(h.label for h in scenes.hypotheses(scene, hidden, rng, 3))
    for count in labels.values():
        assert 0.28 < count / labels.total() < 0.39


def test_everything_follows_from_seed_and_index():
    def made():
        return [
            scenes.questions(make_scene(1, 2), Draws(1, 2, stream=20), 4),
            scenes.statements(*scenes.scene_pair(1, 2), Draws(1, 2, stream=21), 2),
            scenes.hypotheses(make_scene(1, 2), 0, Draws(1, 2, stream=22), 2),
        ]

    assert made() == made()


def test_a_card_lies_in_the_hidden_objects_place_and_tells_nothing_of_it():
    scene = next(s for i in range(99) if len((s := make_scene(2, i)).things) == 3)
    whole, covered = picture_from_id(scene.image_id), picture_from_id(picture_id(scene, 1))
    assert np.array_equal(whole, scenes.draw(scene))
    assert not np.array_equal(whole, covered)
    other = replace(scene.things[1], colour="pink", shape="star", size="large", texture="spotted")
    things = (scene.things[0], other, scene.things[2])
    assert np.array_equal(scenes.draw(replace(scene, things=things), hidden=1), covered)
    row, column = (round(place * 96) for place in (scene.things[1].y, scene.things[1].x))
    assert tuple(covered[row, column]) == (196, 170, 130)


@pytest.mark.parametrize("image_id", ["scene-1-2-hidden-9", "scene-1-2-hidden-x", "photo"])
def test_ids_of_no_picture_are_refused(image_id):
    with pytest.raises(ValueError):
        picture_from_id(image_id)


def test_a_sentence_that_is_none_of_the_grammar_has_no_verdict():
    with pytest.raises(ValueError, match="outside of the scenes' grammar: 'two dogs play'"):
        scenes.verdict(make_scene(seed=0, index=0), None, "two dogs play")
