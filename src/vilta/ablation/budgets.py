"""What a score costs and what a cost buys, arm by arm, in samples, seconds and FLOPs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vilta.ablation.compare import interval
from vilta.ablation.records import CURVES, UNITS, Records
from vilta.ablation.statistics import area, reached, t_interval
from vilta.config.ablate import AblateConfig
from vilta.metrics.bootstrap import Interval


def faster(records: Records, config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Return by measure, arm and unit what an arm needs to reach the baseline's final score.

    As a share of what the baseline itself needs, by the same rule: the first time that the curve is
    there, with straight lines between evaluations. The mean is geometric, its interval Student's on
    the logarithms, over seeds; there is none where a seed never got there. ``at_first`` counts the
    seeds that were there at their first evaluation, and may have needed less.
    """
    table: dict[str, dict[str, Any]] = {}
    for measure in CURVES:
        rows = {
            arm: {unit: _ratio(records, config, arm, measure, unit) for unit in UNITS}
            for arm in config.arms
            if arm != config.baseline
        }
        table[measure] = {
            arm: row for arm, row in rows.items() if any(unit["seeds"] for unit in row.values())
        }
    return {measure: rows for measure, rows in table.items() if rows}


def _ratio(
    records: Records, config: AblateConfig, arm: str, measure: str, unit: str
) -> dict[str, Any]:
    ones, twos = records.finished(arm), records.finished(config.baseline)
    shares: dict[int, float | None] = {}
    at_first = 0
    for seed in sorted(ones.keys() & twos.keys()):
        base, own = twos[seed].curve(measure, unit), ones[seed].curve(measure, unit)
        if not base or not own:
            continue
        target = base[-1][1]
        needs = reached(base, target)
        takes = reached(own, target)
        assert needs is not None, "a curve reaches its own end"
        at_first += own[0][1] >= target
        shares[seed] = None if takes is None else takes / needs
    there = [share for share in shares.values() if share is not None]
    found = Interval(math.nan, math.nan, math.nan)
    if there and len(there) == len(shares):
        logs = t_interval([math.log(share) for share in there])
        found = Interval(*(math.exp(value) for value in logs))
    return {
        **interval(found),
        "by_seed": shares,
        "reached": len(there),
        "at_first": at_first,
        "seeds": len(shares),
    }


def areas(records: Records, config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Return by measure and arm the mean height of the curve over samples, minus the baseline's."""
    table: dict[str, dict[str, Any]] = {}
    for measure in CURVES:
        heights = {
            arm: {
                seed: area(points)
                for seed, run in records.finished(arm).items()
                if (points := run.curve(measure, "samples"))
            }
            for arm in config.arms
        }
        table[measure] = _against_baseline(heights, config)
    return {measure: row for measure, row in table.items() if row}


def at_equal_cost(records: Records, config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Return by unit what each arm has learnt for the same samples, seconds or FLOPs.

    The cost is that of the cheapest finished run, whole; the curves of the others are read off
    there, with straight lines between evaluations.
    """
    table: dict[str, dict[str, Any]] = {}
    for unit in UNITS:
        ends = [
            run.points[-1].cost[unit]
            for arm in config.arms
            for run in records.finished(arm).values()
            if run.points
        ]
        if not ends:
            continue
        measures = {}
        for measure in CURVES:
            values: dict[str, dict[int, float]] = {arm: {} for arm in config.arms}
            for arm in config.arms:
                for seed, run in records.finished(arm).items():
                    curve = run.curve(measure, unit)
                    if curve and curve[0][0] <= min(ends):
                        values[arm][seed] = float(np.interp(min(ends), *np.array(curve).T))
            measures[measure] = _against_baseline(values, config)
        table[unit] = {
            "cost": min(ends),
            "measures": {measure: row for measure, row in measures.items() if row},
        }
    return table


def _against_baseline(values: dict[str, dict[int, float]], config: AblateConfig) -> dict[str, Any]:
    """Return by arm the mean of a value by seed, and the mean of it minus the baseline's."""
    row: dict[str, Any] = {}
    base = values.get(config.baseline, {})
    for arm, own in values.items():
        if not own:
            continue
        row[arm] = {"mean": float(np.mean([*own.values()]))}
        shared = [seed for seed in own if seed in base]
        if arm != config.baseline and shared:
            found = t_interval([own[s] - base[s] for s in shared])
            row[arm]["difference"] = {**interval(found), "seeds": len(shared)}
    return row
