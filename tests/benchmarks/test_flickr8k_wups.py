"""WUPS against cases worked by hand, and WordNet's own figures where it is installed."""

import pytest
from benchmarks.flickr8k.wups import exact_match, wordnet_similarity, wups
from hypothesis import given
from hypothesis import strategies as st

ALIKE = {
    frozenset(("desk", "table")): 0.95,
    frozenset(("chair", "table")): 0.8,
    frozenset(("chair", "desk")): 0.7,
}


def similarity(a, b):
    return ALIKE.get(frozenset((a, b)), 0.0)


@pytest.mark.parametrize(
    ("truth", "given_", "threshold", "expected"),
    [
        (["table"], ["table"], 0.9, 1.0),
        (["table"], ["desk"], 0.9, 0.95),
        (["table"], ["chair"], 0.9, 0.08),  # 0.8 is below the threshold: a tenth of it
        (["table"], ["chair"], 0.8, 0.8),
        (["table"], ["chair"], 0.0, 0.8),
        (["table"], ["lamp"], 0.0, 0.0),
        # Missing word: the desk is compared with the table alone.
        (["table", "desk"], ["table"], 0.9, 1.0 * 0.95),
        (["table", "chair"], ["table"], 0.9, 1.0 * 0.08),
        (["table", "chair"], ["table"], 0.0, 1.0 * 0.8),
        # One word too many; all products, the smaller of the two directions:
        # given: desk 0.95, chair 0.8; truth: table 0.95.
        (["table"], ["desk", "chair"], 0.0, min(0.95 * 0.8, 0.95)),
        (["table"], ["desk", "chair"], 0.9, min(0.95 * 0.08, 0.95)),
        # given: desk 0.95, chair 1; truth: table 0.95, chair 1; lamp has nothing like it.
        (["table", "chair"], ["desk", "chair"], 0.0, 0.95),
        (["table", "lamp"], ["table"], 0.0, 0.0),
        ([], [], 0.9, 1.0),
        (["table"], [], 0.9, 0.0),
    ],
)
def test_hand_worked(truth, given_, threshold, expected):
    assert wups(truth, given_, similarity, threshold) == pytest.approx(expected)


words = st.lists(st.sampled_from(["desk", "table", "chair", "lamp"]), min_size=1, max_size=4)


@given(words, words)
def test_of_words_that_are_equal_or_not_it_is_exact_match(truth, answer):
    strict = wups(truth, answer, lambda a, b: 0.0, 0.9)
    assert strict == exact_match(truth, answer) == exact_match(answer[::-1], truth)
    loose, close = (wups(truth, answer, similarity, threshold) for threshold in (0.0, 0.9))
    assert strict <= close <= loose <= 1
    assert close == wups(answer, truth, similarity, 0.9)


def test_wordnet():
    try:
        alike = wordnet_similarity()
    except ValueError as error:
        pytest.skip(str(error))
    # By hand: the depths of chair, armchair and their lowest common class, the chair itself, in
    # WordNet 3.0 are 10, 11 and 10 with the root: 2 * 10 / (10 + 11).
    assert alike("chair", "armchair") == pytest.approx(20 / 21)
    assert alike("chair", "chair") == 1 and alike("picture", "painting") == 1
    assert alike("dog", "cat") >= 6 / 7 - 1e-9  # the animals: NLTK's documented 0.857
    assert alike("tape_dispenser", "table") == 0  # no sense of its own
