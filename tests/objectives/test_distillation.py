import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vilta.objectives.distillation import (
    distillation_loss,
    ramped,
    soft_cross_entropy,
    without_teacher,
)

CLOSE = dict(atol=1e-5, rtol=1e-5)


def case(seed, rows=4, words=11, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = torch.randn(2, rows, words, generator=generator) * spread
    return logits, torch.randint(0, words, (rows,), generator=generator), teacher


def slow_loss(logits, targets, teacher, alpha, temperature, top_k):
    """The formula of the docstring, a number at a time."""
    total = 0.0
    for row, target, soft in zip(logits.tolist(), targets.tolist(), teacher.tolist(), strict=True):
        p = softmax(row, 1.0)
        p_tau = softmax(row, temperature)
        q = softmax(soft, temperature)
        order = sorted(range(len(q)), key=q.__getitem__, reverse=True)
        kept = order[:top_k] if top_k else order
        mass = sum(q[i] for i in kept)
        kl = sum(q[i] / mass * math.log(q[i] / mass / p_tau[i]) for i in kept)
        total += (1 - alpha) * -math.log(p[target]) + alpha * temperature**2 * kl
    return total / len(targets)


def softmax(row, temperature):
    exps = [math.exp(x / temperature) for x in row]
    return [e / sum(exps) for e in exps]


@given(
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 10, 11, 50]),
)
def test_equals_the_formula(seed, alpha, temperature, top_k):
    logits, targets, teacher = case(seed)
    settings = dict(alpha=alpha, temperature=temperature, top_k=top_k)
    loss = distillation_loss(logits, targets, teacher, **settings)
    expected = slow_loss(logits, targets, teacher, **settings)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("top_k", [0, 3])
def test_alpha_0_is_exactly_cross_entropy(top_k):
    logits, targets, teacher = case(0)
    loss = distillation_loss(logits, targets, teacher, alpha=0.0, top_k=top_k)
    assert torch.equal(loss, F.cross_entropy(logits, targets))
    assert torch.equal(distillation_loss(logits, targets), F.cross_entropy(logits, targets))


def test_full_top_k_is_the_dense_divergence():
    logits, _, teacher = case(1)
    dense = F.kl_div(logits.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    for top_k in (0, 11, 12):
        torch.testing.assert_close(soft_cross_entropy(logits, teacher, 1.0, top_k), dense, **CLOSE)
    # One word short, the teacher's mass on it being next to nothing, is next to the same.
    teacher[:, 5] = -50
    dense = F.kl_div(logits.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    torch.testing.assert_close(soft_cross_entropy(logits, teacher, 1.0, 10), dense, **CLOSE)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    logits, _, _ = case(2)
    logits.requires_grad_()
    loss = soft_cross_entropy(logits, logits.detach(), 2.0, 0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("top_k", [0, 4])
def test_no_gradient_reaches_the_teacher(top_k):
    logits, targets, teacher = case(3)
    logits.requires_grad_(), teacher.requires_grad_()
    distillation_loss(logits, targets, teacher, alpha=0.5, top_k=top_k).backward()
    assert teacher.grad is None
    assert logits.grad.abs().sum() > 0


def test_temperature_keeps_the_size_of_the_gradient():
    # With tau^2 the gradient of the soft part tends to a constant for large tau (1503.02531).
    logits, targets, teacher = case(4)
    sizes = []
    for temperature in (50.0, 100.0):
        each = logits.clone().requires_grad_()
        distillation_loss(each, targets, teacher, alpha=1.0, temperature=temperature).backward()
        sizes.append(each.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_no_masked_position_gives_0_and_a_gradient():
    logits = torch.randn(0, 7, requires_grad=True)
    loss = distillation_loss(logits, torch.zeros(0, dtype=torch.long), torch.randn(0, 7), alpha=0.5)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None


def test_logits_in_bf16_are_summed_in_float32():
    logits, targets, teacher = case(5, rows=64, words=500)
    coarse, soft = logits.bfloat16(), teacher.bfloat16()
    for settings in ({}, {"alpha": 0.5}, {"alpha": 0.5, "top_k": 7}):
        loss = distillation_loss(coarse, targets, soft, **settings)
        assert loss.dtype == torch.float32
        exact = distillation_loss(coarse.float(), targets, soft.float(), **settings)
        torch.testing.assert_close(loss, exact, **CLOSE)


def test_ramp():
    for step, expected in [(0, 0.0), (5, 0.2), (10, 0.4), (11, 0.4), (10_000, 0.4)]:
        assert ramped(0.4, step, 10) == pytest.approx(expected)
    assert ramped(0.4, -3, 10) == 0
    assert ramped(0.4, 0, 0) == ramped(0.4, -3, 0) == 0.4


def test_alpha_may_be_a_number_on_the_device():
    logits, targets, teacher = case(6)
    loss = distillation_loss(logits, targets, teacher, alpha=torch.tensor(0.2))
    expected = distillation_loss(logits, targets, teacher, alpha=0.2)
    torch.testing.assert_close(loss, expected, **CLOSE)


@given(
    seed=st.integers(0, 1000),
    alpha=st.sampled_from([0.0, 0.3, 0.9]),
    top_k=st.sampled_from([0, 1, 3, 11]),
)
def test_without_teacher_gives_back_what_the_student_knows_of_its_own(seed, alpha, top_k):
    """The loss is smallest at a mixture; taking the teacher's share out undoes the mixing."""
    own, _, teacher = case(seed)
    q = teacher.softmax(1)
    if top_k:
        kept = torch.zeros_like(q).scatter(1, q.topk(top_k, dim=1).indices, 1.0)
        q = q * kept / (q * kept).sum(1, keepdim=True)
    mixed = ((1 - alpha) * own.softmax(1) + alpha * q).log()
    found = without_teacher(mixed, teacher, alpha=alpha, top_k=top_k).exp()
    assert torch.allclose(found, (1 - alpha) * own.softmax(1), atol=1e-6)


def test_the_best_student_of_mixed_labels_is_the_mixture():
    """What the test above builds on: no other distribution has a smaller loss."""
    _, targets, teacher = case(3)
    alpha, labels = 0.3, F.one_hot(targets, teacher.shape[1])
    best = ((1 - alpha) * labels + alpha * teacher.softmax(1)).log()
    least = distillation_loss(best, targets, teacher, alpha=alpha)
    for seed in range(50):
        nudge = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)) * 0.05
        assert distillation_loss(best + nudge, targets, teacher, alpha=alpha) > least


def test_without_teacher_is_never_below_nothing():
    logits, _, teacher = case(5)
    found = without_teacher(logits, teacher, alpha=1.0)
    assert not found.isnan().any() and (found < 0).all()
    less = logits.softmax(1) <= teacher.softmax(1)
    assert torch.equal(found == -torch.inf, less), "what the teacher alone put there is nothing"
    assert torch.allclose(without_teacher(logits, None, alpha=0.5), logits.log_softmax(1))
