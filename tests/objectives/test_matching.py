import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilta.objectives.matching import Negatives, draw_in_batch_negatives, matching_loss


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


def test_in_batch_negatives_share_the_weight_of_their_pair():
    images, captions = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2])
    drawn = draw_in_batch_negatives(torch.randn(3, 3), images, captions)
    assert drawn.valid.tolist() == [True, False, True] * 2, "pair 1 shares with both others"
    logits, weight = torch.randn(6, 2), torch.tensor([0.6, 1.0, 0.2])
    groups = drawn.groups(logits, weight)
    first = torch.tensor([True] * 3 + [False] * 3)
    for name, own in {"other_text": first, "other_image": ~first}.items():
        assert torch.equal(groups[name].valid, drawn.valid & own)
        torch.testing.assert_close(groups[name].weight, (weight / 2).repeat(2))
    one = draw_in_batch_negatives(None, images, captions, both=False)
    assert torch.equal(one.groups(logits[:3], weight)["other_text"].weight, weight)


def test_the_draw_takes_no_gradient():
    similarity = torch.randn(3, 3, requires_grad=True)
    drawn = draw_in_batch_negatives(similarity, torch.arange(3), torch.arange(3))
    assert not drawn.text.requires_grad and drawn.text.dtype == torch.long


def cross_entropy(row, target):
    return math.log(sum(math.exp(x) for x in row)) - row[target]


def slow_matching(true, groups):
    """Pair by pair: the weighted losses of its negatives, and its own as often."""
    total = 0.0
    for i, row in enumerate(true.tolist()):
        negatives = weights = 0.0
        for logits, valid, weight in groups.values():
            for r in range(i, len(logits), len(true)):
                if valid[r]:
                    negatives += weight[r].item() * cross_entropy(logits[r].tolist(), 0)
                    weights += weight[r].item()
        total += negatives + weights * cross_entropy(row, 1)
    return total / len(true)


def random_groups(valid, share, seed):
    generator = torch.Generator().manual_seed(seed)
    true, generated = torch.randn(2, 4, 2, generator=generator) * 3
    in_batch = torch.randn(8, 2, generator=generator) * 3
    ids = torch.tensor([0, 1, 2, 2])
    drawn = draw_in_batch_negatives(None, ids, torch.tensor([0, 1, 2, 3]))
    weight = share * torch.tensor(valid)
    groups = drawn.groups(in_batch, 1 - weight)
    return true, groups | {"synthesised": Negatives(generated, torch.tensor(valid), weight)}


@given(
    valid=st.lists(st.booleans(), min_size=4, max_size=4),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_both_answers_of_a_pair_weigh_the_same(valid, share, seed):
    true, groups = random_groups(valid, share, seed)
    loss, parts, counts = matching_loss(true, groups)
    assert loss.item() == pytest.approx(slow_matching(true, groups), rel=1e-5, abs=1e-6)
    assert set(parts) == {
        f"{what}_{name}" for what in ("loss", "accuracy") for name in ("true", *groups)
    }
    generated = groups["synthesised"].logits
    right = [r[0] > r[1] for r, yes in zip(generated.tolist(), valid, strict=True) if yes]
    found = sum(right) / len(right) if right else math.nan
    assert parts["accuracy_synthesised"].item() == pytest.approx(found, nan_ok=True)
    assert counts["accuracy_synthesised"] == counts["loss_synthesised"] == sum(valid)
    assert parts["accuracy_true"].item() == pytest.approx((true[:, 1] > true[:, 0]).float().mean())
    assert not any(value.requires_grad for value in parts.values())


@pytest.mark.parametrize("count", [0, 1, 4])
def test_one_synthesised_negative_weighs_no_more_than_one_of_many(count):
    """A row's weight is the share of its pair, however few pairs have one."""
    true, groups = random_groups([i < count for i in range(4)], 0.5, 0)
    generated = groups["synthesised"].logits.requires_grad_()
    matching_loss(true, groups).total.backward()
    confidence = generated.softmax(1)[:, 1]
    for i in range(4):
        expected = 0.5 / 4 * confidence[i].item() if i < count else 0.0
        assert generated.grad[i, 1].item() == pytest.approx(expected, abs=1e-7)


@given(seed=st.integers(0, 1000))
def test_a_large_batch_is_the_mean_of_its_parts(seed):
    """So that devices and micro-batches need not tell each other how many rows they have."""
    valid = [True, False, False, True]
    true, groups = random_groups(valid, 0.5, seed)
    whole = matching_loss(true, groups).total
    halves = []
    for half in (slice(0, 2), slice(2, 4)):
        part = {
            name: Negatives(*(t.view(-1, 4, *t.shape[1:])[:, half].flatten(0, 1) for t in group))
            for name, group in groups.items()
        }
        halves.append(matching_loss(true[half], part).total)
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_one_mean_over_all_rows_as_albef():
    """ALBEF (arXiv 2107.07651): one cross-entropy over B true and 2B false rows."""
    true, groups = random_groups([False] * 4, 0.0, 1)
    del groups["synthesised"]
    ids = torch.arange(4)
    wrong = torch.randn(8, 2)
    groups = draw_in_batch_negatives(None, ids, ids).groups(wrong, torch.ones(4))
    labels = torch.tensor([1] * 4 + [0] * 8)
    expected = torch.nn.functional.cross_entropy(torch.cat([true, wrong]), labels)
    torch.testing.assert_close(matching_loss(true, groups, mean="rows").total, expected)


def test_invalid_rows_get_no_gradient():
    true, other = torch.randn(2, 3, 2)
    other.requires_grad_()
    group = Negatives(other, torch.tensor([True, False, True]), torch.full((3,), 0.5))
    loss = matching_loss(true, {"x": group})
    loss.total.backward()
    assert other.grad[1].abs().sum() == 0 and (other.grad[[0, 2]].abs().sum(1) > 0).all()


def test_a_pair_without_a_negative_pulls_nowhere():
    """Else a batch of one image would only learn to say that everything matches."""
    true, other = torch.randn(2, 3, 2)
    true.requires_grad_()
    nothing = Negatives(other, torch.zeros(3, dtype=torch.bool), torch.ones(3))
    loss, parts, counts = matching_loss(true, {"x": nothing})
    loss.backward()
    assert loss == 0 and not true.grad.any()
    assert parts["loss_x"].isnan() and parts["accuracy_x"].isnan(), "nothing was counted"
    assert counts["loss_x"] == 0 and counts["accuracy_x"] == 0
    assert counts["loss_true"] == 3
