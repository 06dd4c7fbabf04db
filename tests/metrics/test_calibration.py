import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vilta.metrics.calibration import (
    TEMPERATURES,
    balanced,
    calibrated,
    calibration_pairs,
    fit,
    reliability,
)


def drawn(temperature, bias, count=40_000):
    """Log-odds of a model that is off by a known temperature and bias, half of the pairs true."""
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(count, generator=generator) * 2
    match = torch.rand(count, generator=generator) < honest.sigmoid()
    return (honest - bias) * temperature, match


@pytest.mark.parametrize(("temperature", "bias"), [(3.0, 0.0), (0.4, 1.5), (1.0, -2.0)])
def test_fit_finds_the_temperature_and_bias_that_were_put_in(temperature, bias):
    found = fit(*drawn(temperature, bias))
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.bias == pytest.approx(bias, abs=0.06)


def test_scores_that_tell_nothing_get_the_highest_temperature():
    match = torch.tensor([True, False] * 20)
    found = fit(torch.where(match, -1.0, 1.0) + 0.1 * torch.randn(40), match)
    assert found.temperature == TEMPERATURES[1]


@pytest.mark.parametrize("centre", [-0.7, 2.0, 30.0])
@pytest.mark.parametrize("false", [(-0.005, 0.005), (-0.1, 0.002)])  # lopsided: the mean misleads
def test_scores_too_close_for_the_lowest_temperature_get_its_best_bias(centre, false):
    match = torch.arange(900) < 300
    log_odds = centre + torch.cat([torch.linspace(0, 0.01, 300), torch.linspace(*false, 600)])
    found = fit(log_odds, match)
    assert found.temperature == TEMPERATURES[0]

    def loss(bias):
        chance = torch.sigmoid(log_odds.double() / TEMPERATURES[0] + bias)
        return F.binary_cross_entropy(chance, match.double(), balanced(match).double())

    around = loss(found.bias)
    assert around < loss(found.bias - 0.05) and around < loss(found.bias + 0.05)


def test_a_constant_in_all_scores_goes_into_the_bias():
    log_odds, match = drawn(0.1, 0.0)
    plain, moved = fit(log_odds, match), fit(log_odds.double() + 40, match)
    assert moved.temperature == pytest.approx(plain.temperature, rel=1e-3)
    assert moved.bias == pytest.approx(plain.bias - 40 / plain.temperature, rel=1e-3)


def test_the_error_falls_by_calibration_on_other_pairs():
    log_odds, match = drawn(4.0, 1.0)
    found = fit(log_odds[:20_000], match[:20_000])
    rest, truth = log_odds[20_000:].numpy(), match[20_000:].numpy()
    before = reliability(calibrated(rest, 1.0, 0.0), truth).error
    after = reliability(calibrated(rest, *found), truth).error
    assert before > 0.1 and after < 0.015


def test_the_error_by_hand():
    # Bins [0, 0.5) and [0.5, 1]: 2 pairs at 0.2, none true; 2 at 0.8, both true: gaps of 0.2.
    found = reliability(np.array([0.2, 0.2, 0.8, 0.8]), np.array([False, False, True, True]), 2)
    assert found.error == pytest.approx(0.2)
    assert found.confidence == pytest.approx((0.2, 0.8)) and found.frequency == (0.0, 1.0)
    assert found.weight == pytest.approx((0.5, 0.5))


def test_kinds_weigh_the_same():
    match = torch.tensor([True, False, False, False])
    assert balanced(match).tolist() == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])
    found = reliability(np.array([0.4, 0.6, 0.7, 0.8]), match.numpy(), 1)
    assert found.frequency == pytest.approx((0.5,)), "half of the weight is true"
    assert found.confidence == pytest.approx(((0.4 + 0.7) / 2,))
    with pytest.raises(ValueError, match="pairs that match and pairs that do not"):
        fit(torch.zeros(3), torch.ones(3, dtype=torch.bool))


@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 5))
def test_pairs_hold_all_true_ones_and_some_false_ones_of_each_image(images, captions, seed):
    torch.manual_seed(seed)
    owner = torch.arange(images).repeat_interleave(captions)
    relevant = torch.arange(images)[:, None] == owner[None]
    wanted = calibration_pairs(torch.randn(images, len(owner)), relevant, seed)
    assert wanted[relevant].all()
    false = (wanted & ~relevant).sum(dim=1)
    assert (false <= 2 * captions).all()
    assert (false >= 1).all() or images == 1
