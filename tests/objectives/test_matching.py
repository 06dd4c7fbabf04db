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
    seed=st.integers(0, 1000),
)
def test_never_a_true_pair_never_a_crash(images, captions, scale, seed):
    size = len(images)
    image_ids, caption_ids = torch.tensor(images), torch.tensor(captions[:size])
    similarity = None if scale is None else spread_similarities(size, seed, scale)
    torch.manual_seed(seed)
    drawn = draw_in_batch_negatives(similarity, image_ids, caption_ids)
    for i in range(size):
        partners = [j for j in range(size) if images[i] != images[j] and captions[i] != captions[j]]
        text, image = drawn.text[i].item(), drawn.image[i].item()
        assert drawn.valid[i].item() == bool(partners)
        if partners:
            assert sorted([text == i, image == i]) == [False, True], "one of the two is swapped"
            assert (text if image == i else image) in partners
        else:
            assert text == image == i


@pytest.mark.parametrize("size", [1, 4])
def test_no_wrong_partner_in_the_batch(size):
    one = torch.zeros(size, dtype=torch.long)
    for images, captions in [(one, torch.arange(size)), (torch.arange(size), one)]:
        drawn = draw_in_batch_negatives(torch.randn(size, size), images, captions)
        assert not drawn.valid.any()
        assert torch.equal(drawn.text, torch.arange(size))
        assert torch.equal(drawn.image, torch.arange(size))


def test_large_similarities_give_the_likeliest_and_no_nan():
    similarity = torch.full((5, 5), -1e4)
    similarity.fill_diagonal_(1e4)
    similarity[0, 3] = similarity[1, 2] = 1e4  # image 0 resembles text 3, image 1 text 2
    ids = torch.arange(5)
    seen = set()
    for _ in range(60):
        drawn = draw_in_batch_negatives(similarity, ids, ids)
        assert drawn.valid.all()
        rows = zip(ids.tolist(), drawn.text.tolist(), drawn.image.tolist(), strict=True)
        seen |= {(i, text, image) for i, text, image in rows}
    # By coin: image i with another text, or text i with another image.
    assert {s for s in seen if s[0] == 0 and s[2] == 0} == {(0, 3, 0)}
    assert {s for s in seen if s[0] == 3 and s[1] == 3} == {(3, 3, 0)}
    assert {s for s in seen if s[0] == 2 and s[1] == 2} == {(2, 2, 1)}


def test_drawn_with_the_probabilities_of_the_softmax():
    similarity = torch.tensor([[0.0, 2.0, 1.0, 0.0], *torch.randn(3, 4).tolist()])
    ids = torch.arange(4)
    draws = 12_000
    texts, images = torch.zeros(4), torch.zeros(4)
    for _ in range(draws // 4):
        # Rows 0 and 1 of several batches at once would be slower to read; a loop it is.
        drawn = draw_in_batch_negatives(similarity, ids, ids)
        if drawn.image[0] == 0:
            texts[drawn.text[0]] += 1
        else:
            images[drawn.image[0]] += 1
    assert texts.sum().item() == pytest.approx(draws / 8, abs=5 * math.sqrt(draws / 16))
    for counts, scores in ((texts, similarity[0]), (images, similarity[:, 0])):
        expected = scores[1:].softmax(0)
        torch.testing.assert_close(counts[1:] / counts.sum(), expected, atol=0.06, rtol=0)
        assert counts[0] == 0


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
