"""Intervals against tables and slow versions; times to a score on curves drawn by hand."""

import math

import numpy as np
import pytest

from vilta.ablation.statistics import area, reached, t_interval, t_quantile, two_level_interval


@pytest.mark.parametrize(
    ("share", "freedom", "value"),  # a printed table of Student's t
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.995, 1, 63.657),
        (0.995, 9, 3.250),
        (0.975, 120, 1.980),
    ],
)
def test_quantiles_are_those_of_the_table(share, freedom, value):
    assert t_quantile(share, freedom) == pytest.approx(value, rel=3e-4)


def test_an_interval_over_seeds():
    found = t_interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert found.low == pytest.approx(4 - found.high)
    assert math.isnan(t_interval([1.0]).low)
    assert t_interval([1.0]).mean == 1


def test_seeds_that_agree_to_the_item_show_no_spread():
    """Of 107 masked words, two seeds may well differ from the baseline by the same number."""
    step = 100 / 107
    found = t_interval([40 * step - 38 * step, 43 * step - 41 * step])
    assert found.mean == pytest.approx(2 * step)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert not math.isnan(t_interval([2 * step, 3 * step]).low)


@pytest.mark.parametrize(("seeds", "apart"), [(4, 2), (40, 3)])
def test_two_levels_against_a_plain_loop(seeds, apart):
    """Over few seeds Student's interval is the wider one, over many that of both levels."""
    rng = np.random.default_rng(1)
    groups = [f"photo-{i // 3}" for i in range(60)]
    photos = rng.normal(0, 4, 20).repeat(3)
    values = 2 + photos + rng.normal(0, 3, (seeds, 60)) + rng.normal(0, apart, (seeds, 1))
    found = two_level_interval(groups, values)
    assert found.mean == pytest.approx(np.mean(values))
    means = []
    for _ in range(3000):
        chosen = rng.integers(20, size=20)
        items = [3 * photo + i for photo in chosen for i in range(3)]
        means.append(np.mean(values[rng.integers(seeds, size=seeds)][:, items]))
    low, high = np.percentile(means, [2.5, 97.5])
    over_seeds = t_interval([*values.mean(axis=1)])
    assert found.low == pytest.approx(min(low, over_seeds.low), abs=0.15)
    assert found.high == pytest.approx(max(high, over_seeds.high), abs=0.15)
    alike = values - values.mean(axis=1, keepdims=True)  # then only the images differ
    narrow = two_level_interval(groups, alike)
    assert 0 < narrow.high - narrow.low < found.high - found.low


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_few_seeds_hold_as_often_as_they_say(seeds):
    """A bootstrap alone holds in 66 % of cases with two seeds that lie apart, 83 % with five."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(80):
        values = rng.normal(0, 5, (seeds, 1)) + rng.normal(0, 30, (seeds, 60))
        found = two_level_interval([str(i) for i in range(60)], values)
        held += found.low <= 0 <= found.high
    assert held >= 0.9 * 80


def test_time_to_a_score_is_interpolated():
    curve = [(10.0, 0.0), (20.0, 50.0), (30.0, 40.0), (40.0, 80.0)]
    assert reached(curve, 25.0) == 15
    assert reached(curve, 50.0) == 20
    assert reached(curve, 60.0) == 35
    assert reached(curve, 81.0) is None
    assert reached(curve, -1.0) == 10  # not earlier than the first point that is known
    assert area(curve) == pytest.approx((25 + 45 + 60) / 3)
    assert area(curve[:1]) == 0
