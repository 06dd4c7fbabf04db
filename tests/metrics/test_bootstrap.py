import numpy as np
import pytest

from vilta.metrics.bootstrap import bootstrap_interval


def slow_interval(groups, values, draws, seed, percentiles):
    """Group by group and draw by draw."""
    names = sorted(set(groups))
    members = {n: [v for g, v in zip(groups, values, strict=True) if g == n] for n in names}
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = [v for i in rng.integers(len(names), size=len(names)) for v in members[names[i]]]
        means.append(sum(drawn) / len(drawn))
    return tuple(np.percentile(means, percentiles))


@pytest.mark.parametrize(("level", "percentiles"), [({}, [2.5, 97.5]), ({"level": 0.8}, [10, 90])])
def test_equals_the_slow_way(level, percentiles):
    rng = np.random.default_rng(3)
    groups = [f"photo-{i}" for i in rng.integers(12, size=60)]
    values = rng.normal(size=60)
    found = bootstrap_interval(groups, values, draws=400, seed=5, **level)
    assert found.mean == pytest.approx(values.mean())
    slow = slow_interval(groups, values, 400, 5, percentiles)
    assert (found.low, found.high) == pytest.approx(slow)


def test_agrees_with_the_normal_interval_of_independent_items():
    values = np.random.default_rng(0).normal(size=2_000)
    found = bootstrap_interval(np.arange(2_000), values)
    half = 1.96 * values.std() / np.sqrt(2_000)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_items_of_one_photo_are_drawn_together():
    """A hundred copies of ten items tell no more than the ten."""
    values, groups = np.arange(10.0), np.arange(10)
    once = bootstrap_interval(groups, values)
    often = bootstrap_interval(np.repeat(groups, 100), np.repeat(values, 100))
    assert often == pytest.approx(once)


@pytest.mark.parametrize(("groups", "values"), [([], []), (["a"], [1.0, 2.0])])
def test_no_values_or_other_lengths_are_refused(groups, values):
    with pytest.raises(ValueError, match="one group for each value"):
        bootstrap_interval(groups, values)
