import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilta.metrics.compositional import (
    accuracy_by_category,
    pairwise_accuracy,
    valse_metrics,
    winoground_scores,
)

NAN = torch.nan


def test_pairs_are_right_if_the_true_caption_scores_strictly_higher():
    true = torch.tensor([2.0, 1.0, 0.5, NAN, 1.0])
    false = torch.tensor([1.0, 2.0, 0.5, 0.0, NAN])
    assert pairwise_accuracy(true, false) == 20.0
    assert pairwise_accuracy(torch.tensor([0.2, 0.9]), torch.tensor([0.1, 0.8])) == 100.0


@pytest.mark.parametrize(
    ("scores", "text", "image"),
    [
        ([[2, 1], [0, 1]], True, False),  # caption 1 finds both images alike
        ([[2, 0], [1, 1]], False, True),  # image 1 finds both captions alike
        ([[2, 1], [1, 2]], True, True),
        ([[1, 2], [2, 1]], False, False),
        ([[9, 8], [7, 6]], False, False),  # image 1 and caption 1 prefer what is not theirs
        ([[3, 2], [0, 1]], True, False),
        ([[3, 0], [2, 1]], False, True),
        ([[1, 1], [1, 1]], False, False),
        ([[NAN, 0], [0, 1]], False, False),
    ],
)
def test_one_winoground_example(scores, text, image):
    metrics = winoground_scores(torch.tensor([scores], dtype=torch.float))
    assert metrics == {"text": 100 * text, "image": 100 * image, "group": 100 * (text and image)}


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=8))
def test_winoground_equals_its_four_inequalities(examples):
    text = [i0c0 > i0c1 and i1c1 > i1c0 for i0c0, i0c1, i1c0, i1c1 in examples]
    image = [i0c0 > i1c0 and i1c1 > i0c1 for i0c0, i0c1, i1c0, i1c1 in examples]
    group = [t and i for t, i in zip(text, image, strict=True)]
    metrics = winoground_scores(torch.tensor(examples, dtype=torch.float).view(-1, 2, 2))
    expected = {"text": text, "image": image, "group": group}
    assert metrics == {name: 100 * sum(hits) / len(hits) for name, hits in expected.items()}


def test_valse_worked_by_hand():
    caption = torch.tensor([0.9, 0.6, 0.5, 0.8])
    foil = torch.tensor([0.1, 0.7, 0.5, 0.6])
    metrics = valse_metrics(caption, foil)
    # One half is no match, for a caption as for a foil; the third pair is a tie.
    assert metrics == {
        "acc_r": 50.0,
        "acc": 62.5,
        "p_c": 75.0,
        "p_f": 50.0,
        "min(p_c,p_f)": 50.0,
    }


def test_valse_of_one_who_always_says_yes():
    metrics = valse_metrics(torch.full((5,), 0.9), torch.full((5,), 0.9))
    assert metrics == {"acc_r": 0, "acc": 50, "p_c": 100, "p_f": 0, "min(p_c,p_f)": 0}


def test_valse_without_a_number_is_wrong():
    metrics = valse_metrics(torch.tensor([NAN]), torch.tensor([NAN]))
    assert set(metrics.values()) == {0.0}


def test_categories_weigh_the_same_in_the_mean():
    categories = ["on"] * 4 + ["under"]
    accuracy = accuracy_by_category(torch.tensor([True, True, True, False, False]), categories)
    assert accuracy.by_category == {"on": 75.0, "under": 0.0}
    assert accuracy.macro == 37.5  # 60 percent of the items are right


def test_small_categories_are_left_out_of_the_mean():
    correct = torch.tensor([True, False, True, True])
    accuracy = accuracy_by_category(correct, ["a", "a", "b", "c"], at_least=2)
    assert accuracy == ({"a": 50.0}, 50.0)
    with pytest.raises(ValueError, match="no category has 3"):
        accuracy_by_category(correct, ["a", "a", "b", "c"], at_least=3)


def test_categories_outside_the_mean_are_measured():
    correct, names = torch.tensor([True, False, True]), ["on", "on", "near"]
    assert accuracy_by_category(correct, names, outside={"near"}) == ({"on": 50.0, "near": 100}, 50)
    with pytest.raises(ValueError, match="counts in the mean"):
        accuracy_by_category(correct, names, outside={"near", "on"})


def test_every_item_needs_a_category():
    with pytest.raises(ValueError, match="2 items"):
        accuracy_by_category(torch.tensor([True, False]), ["a"])


@pytest.mark.parametrize(
    "figure",
    [
        lambda: pairwise_accuracy(torch.zeros(0), torch.zeros(0)),
        lambda: winoground_scores(torch.zeros(0, 2, 2)),
        lambda: valse_metrics(torch.zeros(0), torch.zeros(0)),
        lambda: accuracy_by_category(torch.zeros(0, dtype=torch.bool), []),
    ],
)
def test_without_items_there_is_no_figure(figure):
    with pytest.raises(ValueError, match="no "):
        figure()
