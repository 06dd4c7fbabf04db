import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilta.metrics.nlvr2 import nlvr2_metrics


def test_a_sentence_is_consistent_if_right_for_all_its_pairs():
    metrics = nlvr2_metrics(
        ["dev-7-0-0", "dev-7-1-0", "dev-7-2-0", "dev-7-0-1", "dev-7-1-1", "dev-8-0-0"],
        [True, False, True, True, True, False],
        [True, False, True, True, False, True],
    )
    # Right: all three pairs of sentence 7-0, one of two of 7-1, none of one of 8-0.
    assert metrics == pytest.approx({"accuracy": 400 / 6, "consistency": 100 / 3})


def test_the_same_numbers_in_another_split_are_another_sentence():
    metrics = nlvr2_metrics(["dev-0-0-0", "test1-0-1-0"], [True, True], [True, False])
    assert metrics == {"accuracy": 50.0, "consistency": 50.0}


def slow_consistency(identifiers, correct):
    """Names of the sentences with the pair cut out of the text; wrong ones are struck off."""
    names = [f"{one[: one.index('-', 4)]}-{one[-1]}" for one in identifiers]
    wrong = {name for name, right in zip(names, correct, strict=True) if not right}
    return 100 * len(set(names) - wrong) / len(set(names))


@given(
    st.lists(
        st.tuples(*[st.integers(0, 3)] * 2, st.integers(0, 1), st.booleans(), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_equals_striking_wrong_sentences_off(examples):
    identifiers = [f"dev-{images}-{pair}-{sentence}" for images, pair, sentence, *_ in examples]
    predictions = [predicted for *_, predicted, _ in examples]
    labels = [label for *_, label in examples]
    correct = [predicted == label for predicted, label in zip(predictions, labels, strict=True)]
    metrics = nlvr2_metrics(identifiers, predictions, labels)
    assert metrics["accuracy"] == pytest.approx(100 * correct.count(True) / len(correct))
    assert metrics["consistency"] == pytest.approx(slow_consistency(identifiers, correct))


@pytest.mark.parametrize(
    "examples",
    [([], [], []), (["dev-0-0-0"], [], [True]), (["dev-0-0-0"], [True], [True, True])],
)
def test_examples_must_be_complete(examples):
    with pytest.raises(ValueError):
        nlvr2_metrics(*examples)


@pytest.mark.parametrize("identifier", ["dev-0-0", "dev-0-0-img0-1", "850"])
def test_identifiers_of_another_form_are_named(identifier):
    with pytest.raises(ValueError, match=identifier):
        nlvr2_metrics([identifier], [True], [True])
