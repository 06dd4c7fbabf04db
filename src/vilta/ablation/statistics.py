"""How far a difference between two methods can be trusted: over seeds, and over items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from vilta.metrics.bootstrap import Interval

DRAWS = 4000
ROUNDING = 1e-3
"""Scores in percent that lie closer together are one: records keep four decimals."""


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean of independent values, one a seed, and Student's interval.

    Without bounds (NaN) for fewer than two values, and for values that are all equal, as scores of
    a few items may be: they do not show how far those of other seeds would lie apart.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2 or np.ptp(numbers) < ROUNDING:
        mean = float(numbers.mean()) if len(numbers) else math.nan
        return Interval(mean, math.nan, math.nan)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    reach = t_quantile(0.5 + level / 2, len(numbers) - 1) * error
    mean = float(numbers.mean())
    return Interval(mean, mean - reach, mean + reach)


def t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t above the median.

    With t = sqrt(n) tan(a) the density in the angle a is proportional to cos(a)^(n - 1), which is
    smooth and bounded: it is summed up and inverted on a grid, to about four digits.
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1)
    summed = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = np.interp(2 * share - 1, summed / summed[-1], angles)
    return math.sqrt(freedom) * math.tan(angle)


def two_level_interval(
    groups: Sequence[str],
    differences: Float[np.ndarray, "S N"],
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of differences by seed and item, and an interval over both.

    In each draw of the bootstrap the seeds and the images (``groups``, one name for each item) are
    drawn with replacement. What is drawn from two or three seeds lies between them, however far
    from them others would lie, so the interval is never narrower than Student's over the seeds'
    means.
    """
    seeds, _ = differences.shape
    names, index, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(index, row, len(names)) for row in differences])
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    drawn = rng.integers(seeds, size=(DRAWS, seeds))
    means = np.take_along_axis(weights @ sums.T, drawn, axis=1).mean(1) / (weights @ counts)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    over_seeds = t_interval([*differences.mean(axis=1)], level)  # may lack bounds
    low, high = np.fmin(low, over_seeds.low), np.fmax(high, over_seeds.high)
    return Interval(float(differences.mean()), float(low), float(high))


def reached(points: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return what it cost until a curve first reached ``target``, interpolated; None if never.

    ``points`` are (cost, score), in order. A curve that is there at its first point is said to need
    all that this point cost.
    """
    before: tuple[float, float] | None = None
    for cost, score in points:
        if score >= target:
            if before is None:
                return cost
            return before[0] + (target - before[1]) / (score - before[1]) * (cost - before[0])
        before = (cost, score)
    return None


def area(points: Sequence[tuple[float, float]]) -> float:
    """Return the mean height of a curve of (cost, score), from its first point to its last."""
    at, scores = np.array(points, dtype=float).T
    if len(at) < 2:
        return float(scores[-1])
    return float(np.trapezoid(scores, at) / (at[-1] - at[0]))
