import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vilta.objectives.contrastive import contrastive_loss, positive_pairs


def same_image(ids):
    ids = torch.as_tensor(list(ids))
    return positive_pairs(ids, torch.arange(len(ids)))


def slow_loss(similarity, ids):
    rows = similarity.tolist()
    size = len(rows)
    total = 0.0
    for i in range(size):
        across = rows[i], [rows[j][i] for j in range(size)]
        matches = [j for j in range(size) if ids[j] == ids[i]]
        for scores in across:
            top = max(scores)
            normaliser = top + math.log(sum(math.exp(s - top) for s in scores))
            total += sum(normaliser - scores[j] for j in matches) / len(matches)
    return total / size / 2


@given(
    ids=st.lists(st.integers(-2, 3), min_size=1, max_size=7),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([1.0, 30.0]),
)
def test_equals_a_plain_loop(ids, seed, spread):
    size = len(ids)
    similarity = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) * spread
    loss = contrastive_loss(similarity, same_image(ids))
    assert loss.item() == pytest.approx(slow_loss(similarity, ids), rel=1e-4, abs=1e-5)


def test_without_repeats_it_is_cross_entropy_both_ways():
    similarity, own = torch.randn(6, 6) * 5, torch.arange(6)
    plain = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
    torch.testing.assert_close(contrastive_loss(similarity, same_image(own + 2**62)), plain)


def test_texts_of_the_same_image_do_not_compete():
    similarity = torch.tensor([[9.0, 9.0, -9.0], [9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]])
    loss = contrastive_loss(similarity, same_image([5, 5, 8]))
    # The best that can be: each of two texts has half of the probability.
    assert loss.item() == pytest.approx(2 / 3 * math.log(2), abs=1e-3)


@pytest.mark.parametrize("ids", [[3], [3, 3, 3]])
def test_batches_with_nothing_to_contrast(ids):
    similarity = torch.zeros(len(ids), len(ids), requires_grad=True)
    loss = contrastive_loss(similarity, same_image(ids))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(len(ids)))
    assert similarity.grad.abs().max() < 1e-6


def test_in_bf16_and_for_huge_similarities():
    similarity = (torch.randn(4, 4) * 1e4).bfloat16()
    loss = contrastive_loss(similarity, same_image(range(4)))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_the_same_caption_of_two_images_is_true_of_both():
    together = positive_pairs(torch.tensor([1, 2, 3]), torch.tensor([7, 7, 8]))
    assert together.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_rows_target_is_shared_by_its_own_positives():
    """Pair 1 shares its image with 0 and its caption with 2, which have nothing in common."""
    positive = positive_pairs(torch.tensor([1, 1, 2]), torch.tensor([7, 8, 8]))
    similarity = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) * 3
    total = 0.0
    for i, partners in enumerate([[0, 1], [0, 1, 2], [1, 2]]):
        for row in (similarity[i], similarity[:, i]):
            total -= row.log_softmax(0)[partners].mean().item()
    assert contrastive_loss(similarity, positive).item() == pytest.approx(total / 6, rel=1e-5)
