import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilta.objectives.matching import draw_in_batch_negatives, matching_loss


def spread_similarities(size, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, generator=generator).sign() * scale


@given(
    images=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    captions=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    scale=st.sampled_from([None, 0.0, 1.0, 1e4]),
    both=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_never_a_true_pair_never_a_crash(images, captions, scale, both, seed):
    size = len(images)
    image_ids, caption_ids = torch.tensor(images), torch.tensor(captions[:size])
    similarity = None if scale is None else spread_similarities(size, seed, scale)
    torch.manual_seed(seed)
    drawn = draw_in_batch_negatives(similarity, image_ids, caption_ids, both=both)
    assert len(drawn.text) == len(drawn.image) == len(drawn.valid) == size * (1 + both)
    for row in range(len(drawn.text)):
        i, swapped = row % size, drawn.other_text[row].item()
        assert not both or swapped == (row < size), "texts first, then images"
        partners = [j for j in range(size) if images[i] != images[j] and captions[i] != captions[j]]
        text, image = drawn.text[row].item(), drawn.image[row].item()
        assert drawn.valid[row].item() == bool(partners)
        if partners:
            assert (image if swapped else text) == i
            assert (text if swapped else image) in partners
        else:
            assert text == image == i


@pytest.mark.parametrize("size", [1, 4])
def test_no_wrong_partner_in_the_batch(size):
    one = torch.zeros(size, dtype=torch.long)
    for images, captions in [(one, torch.arange(size)), (torch.arange(size), one)]:
        drawn = draw_in_batch_negatives(torch.randn(size, size), images, captions)
        assert not drawn.valid.any()
        assert torch.equal(drawn.text, torch.arange(size).repeat(2))
        assert torch.equal(drawn.image, torch.arange(size).repeat(2))


def test_large_similarities_give_the_likeliest_and_no_nan():
    similarity = torch.full((5, 5), -1e4)
    similarity.fill_diagonal_(1e4)
    similarity[0, 3] = similarity[1, 2] = 1e4  # image 0 resembles text 3, image 1 text 2
    ids = torch.arange(5)
    for _ in range(20):
        drawn = draw_in_batch_negatives(similarity, ids, ids)
        assert drawn.valid.all()
        other_text, other_image = drawn.text[:5], drawn.image[5:]
        assert (other_text[0], other_text[1]) == (3, 2)
        assert (other_image[3], other_image[2]) == (0, 1)


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0, torch.tensor(2.0)])
def test_drawn_with_the_probabilities_of_the_softmax(hardness):
    """Against the slow way: each row's softmax over its allowed partners, pair by pair."""
    similarity = torch.tensor([[0.0, 2.0, 1.0, 0.0], [1.0, 0.0, -2.0, 0.5], [0.0] * 4, [1.0] * 4])
    images, captions = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 0])
    expected = torch.zeros(8, 4)
    for row in range(8):
        i = row % 4
        scores = similarity[i] if row < 4 else similarity[:, i]
        weights = [
            math.exp(float(hardness) * scores[j].item())
            if images[i] != images[j] and captions[i] != captions[j]
            else 0.0
            for j in range(4)
        ]
        expected[row] = torch.tensor(weights) / sum(weights)
    draws, counts = 3_000, torch.zeros(8, 4)
    for _ in range(draws):
        drawn = draw_in_batch_negatives(similarity, images, captions, hardness=hardness)
        partner = torch.where(drawn.other_text, drawn.text, drawn.image)
        counts += torch.nn.functional.one_hot(partner, 4)
    torch.testing.assert_close(counts / draws, expected, atol=0.05, rtol=0)  # 5 deviations


def test_one_of_the_two_by_a_coin():
    ids, draws = torch.arange(6), 1_000
    drawn = [draw_in_batch_negatives(None, ids, ids, both=False) for _ in range(draws)]
    share = torch.cat([d.other_text for d in drawn]).float().mean().item()
    assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(6 * draws))


def test_groups_of_in_batch_negatives_share_their_weight():
    ids = torch.tensor([0, 1, 1])
    drawn = draw_in_batch_negatives(torch.randn(3, 3), ids, torch.tensor([0, 0, 2]))
    assert drawn.valid.tolist() == [False, False, False] * 2 or drawn.valid.any()
    logits = torch.randn(6, 2)
    groups = drawn.groups(logits, 0.6)
    assert {name: weight for name, (_, _, weight) in groups.items()} == {
        "other_text": 0.3,
        "other_image": 0.3,
    }
    assert groups["other_text"][1].tolist() == drawn.valid[:3].tolist() + [False] * 3
    assert groups["other_image"][1].tolist() == [False] * 3 + drawn.valid[3:].tolist()
    loss = matching_loss(torch.randn(3, 2), groups)
    halves = (logits[:3], logits[3:])
    for name, half in zip(groups, halves, strict=True):
        valid = drawn.valid[:3]
        expected = torch.nn.functional.cross_entropy(
            half[valid], torch.zeros(len(half[valid])).long()
        )
        torch.testing.assert_close(loss.metrics[f"loss_{name}"], expected)


def test_the_draw_takes_no_gradient():
    similarity = torch.randn(3, 3, requires_grad=True)
    drawn = draw_in_batch_negatives(similarity, torch.arange(3), torch.arange(3))
    assert not drawn.text.requires_grad and drawn.text.dtype == torch.long


def slow_matching(true, groups):
    def loss(row, target):
        return math.log(sum(math.exp(x) for x in row)) - row[target]

    total = sum(loss(row, 1) for row in true.tolist()) / len(true)
    for logits, valid, weight in groups.values():
        rows = [loss(r, 0) for r, yes in zip(logits.tolist(), valid.tolist(), strict=True) if yes]
        if rows:
            total += weight * sum(rows) / len(rows)
    return total


@given(
    valid=st.lists(st.booleans(), min_size=4, max_size=4),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_groups_are_averaged_apart(valid, weight, seed):
    true, one, two = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(seed)) * 3
    groups = {
        "in_batch": (one[:3], torch.tensor([True, True, False]), 1 - weight),
        "synthesised": (two, torch.tensor(valid), weight),
    }
    loss, parts, counts = matching_loss(true, groups)
    assert loss.item() == pytest.approx(slow_matching(true, groups), rel=1e-5, abs=1e-6)
    assert set(parts) == {
        f"{what}_{name}" for what in ("loss", "accuracy") for name in ("true", *groups)
    }
    right = [r[0] > r[1] for r, yes in zip(two.tolist(), valid, strict=True) if yes]
    share = sum(right) / len(right) if right else math.nan
    assert parts["accuracy_synthesised"].item() == pytest.approx(share, nan_ok=True)
    assert counts["accuracy_synthesised"] == counts["loss_synthesised"] == sum(valid)
    assert parts["accuracy_true"].item() == pytest.approx((true[:, 1] > true[:, 0]).float().mean())
    assert not any(value.requires_grad for value in parts.values())


def test_invalid_rows_get_no_gradient():
    true, other = torch.randn(2, 3, 2)
    other.requires_grad_()
    loss = matching_loss(true, {"x": (other, torch.tensor([True, False, True]), 0.5)})
    loss.total.backward()
    assert other.grad[1].abs().sum() == 0 and (other.grad[[0, 2]].abs().sum(1) > 0).all()


def test_a_group_without_a_valid_row_adds_0():
    true, other = torch.randn(2, 3, 2)
    nothing = torch.zeros(3, dtype=torch.bool)
    alone = matching_loss(true, {})
    loss, parts, counts = matching_loss(true, {"x": (other, nothing, 0.5)})
    assert torch.equal(loss, alone.total)
    assert parts["loss_x"].isnan() and parts["accuracy_x"].isnan(), "nothing was counted"
    assert counts["loss_x"] == 0 and counts["accuracy_x"] == 0
