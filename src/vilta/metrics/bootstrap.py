"""Confidence intervals by bootstrap over groups, such as the photos that items are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    groups: Sequence[str] | ArrayLike,
    values: ArrayLike,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``values`` ``[N]`` and its percentile interval (Efron 1979).

    Whole groups are drawn with replacement, because items of one photo are not independent; value i
    belongs to group i, and each item weighs the same. For the difference of two systems give the
    item-wise differences. Raises ``ValueError`` without values or for lengths that differ.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    if numbers.ndim != 1 or len(numbers) != len(index) or len(numbers) == 0:
        raise ValueError(
            f"a bootstrap needs one group for each value and at least one, got {len(index)} groups "
            f"for values of shape {list(numbers.shape)}"
        )
    sums = np.bincount(index, weights=numbers)
    counts = np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, 100):  # at most 100 draws of all groups in memory
        stop = min(start + 100, draws)
        picked = rng.integers(len(names), size=(stop - start, len(names)))
        means[start:stop] = sums[picked].sum(1) / counts[picked].sum(1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(numbers.mean()), float(low), float(high))
