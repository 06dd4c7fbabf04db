"""The whole comparison as one plain dict: what report.json holds and the pages are made of."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from vilta.ablation.arms import difference
from vilta.ablation.budgets import areas, at_equal_cost, faster
from vilta.ablation.compare import (
    HEADLINES,
    differences,
    disagreements,
    final_measures,
    noise_losses,
    pairs_of_arms,
    planned,
)
from vilta.ablation.grid import Plan, final_settings, seeds_of
from vilta.ablation.records import CURVES, UNITS, Records
from vilta.config.ablate import AblateConfig


def summarise(config: AblateConfig, plan: Plan, records: Records) -> dict[str, Any]:
    """Return everything that the report says; NaN where there is no number."""
    settings = {arm: final_settings(config, plan, arm) for arm in config.arms}
    measures = final_measures(records, config)
    base = settings[config.baseline]
    optimization = base.optimization
    return {
        "made": datetime.now(UTC).date().isoformat(),
        "about": {
            "base": config.base,
            "common": list(config.common),
            "arms": {arm: difference(s, base) for arm, s in settings.items()},
            "baseline": config.baseline,
            "seeds": list(config.seeds),
            "budget": f"{config.amount:g} {config.budget}",
            "schedule": optimization.schedule,
            "warmup": optimization.warmup,
            "cooldown": optimization.cooldown,
            "lr": {arm: s.optimization.lr for arm, s in settings.items()},
            "evaluations": config.evaluations,
            "images": config.images,
            "edits": config.edits,
            "items": len(records.items),
            "validation": base.data.val,
            "training_data": base.data.train,
            "precision": plan.precision,
            "probed_on": plan.device,
            "jobs": config.jobs,
            "controls": [arm for arm in config.arms if arm in config.controls],
            "tuned": _tuned(config, plan),
        },
        "finished": {arm: sorted(records.finished(arm)) for arm in config.arms},
        "missing": [
            f"{arm}/seed-{seed}"
            for arm in config.arms
            for seed in seeds_of(config, arm)
            if seed not in records.finished(arm)
        ],
        "unequal_starts": {seed: parts for seed, parts in records.unequal.items() if parts},
        "starts_compared": sorted(records.unequal),
        "cost": {arm: _cost(plan, records, arm) for arm in config.arms if arm in plan.arms},
        "planned": planned(records, config),
        "headlines": headlines(records, config),
        "measures": measures,
        "looked_at": looked_at(measures, config),
        "faster": faster(records, config),
        "area": areas(records, config),
        "equal_cost": at_equal_cost(records, config),
        "noise_share": config.caption_noise,
        "noise": noise_losses(records, config),
        "curves": _curves(records, config),
        "disagreements": {
            arm: disagreements(records, config, arm)
            for arm in config.arms
            if arm != config.baseline
        },
    }


def headlines(records: Records, config: AblateConfig) -> dict[str, list[dict[str, Any]]]:
    """Return ``arm`` minus ``other``, sorted into ``worse``, ``unclear`` and ``better``.

    ``single`` holds comparisons from one seed, which decide nothing.
    """
    found: dict[str, list[dict[str, Any]]] = {
        "worse": [],
        "unclear": [],
        "better": [],
        "single": [],
    }
    for arm, other in pairs_of_arms(config):
        for measure in HEADLINES:
            change = differences(records, arm, other, measure)
            if change is None:
                continue
            kind = "unclear"
            if change["seeds"] < 2:
                kind = "single"
            elif change["high"] < 0:
                kind = "worse"
            elif change["low"] > 0:
                kind = "better"
            found[kind].append({"arm": arm, "other": other, "measure": measure, **change})
    return found


def looked_at(measures: dict[str, dict[str, Any]], config: AblateConfig) -> dict[str, int]:
    """Return how many differences at the end of training have an interval, and exclude zero.

    Those that were planned are not counted, nor those of one seed, which decide nothing.
    """
    known = {(frozenset((p.arm, p.other)), p.measure) for p in config.comparisons()}
    found = [
        change
        for measure, row in measures.items()
        for arm, value in row.items()
        if (change := value.get("difference")) and math.isfinite(change["low"])
        if change["seeds"] > 1 and (frozenset((arm, config.baseline)), measure) not in known
    ]
    return {
        "intervals": len(found),
        "exclude_zero": sum(change["low"] > 0 or change["high"] < 0 for change in found),
    }


def _tuned(config: AblateConfig, plan: Plan) -> dict[str, Any] | None:
    """Return how the arms were tuned; None if they were not."""
    if not plan.tuning:
        return None
    return {
        "settings": list(plan.tune or ()),
        "amount": plan.tune_amount or plan.amount,
        "on": plan.tune_on,
        "seed": config.tune_seed,
        "scores": {arm: plan.tuning[arm] for arm in config.arms if arm in plan.tuning},
        "chosen": {arm: plan.choice(arm) for arm in config.arms if arm in plan.tuning},
    }


def _cost(plan: Plan, records: Records, arm: str) -> dict[str, Any]:
    """Return what a whole run of an arm costs, by the plan and by the logs."""
    one = plan.arms[arm]
    logged = [run.training.get("seconds") for run in records.finished(arm).values()]
    known = [seconds for seconds in logged if seconds is not None]
    devices = {run.training.get("device", "") for run in records.finished(arm).values()}
    return {
        "steps": one.steps,
        "samples": one.steps * one.batch,
        "seconds": one.cost(one.seconds, one.steps),
        "flops": one.cost(one.flops, one.steps),
        "logged_seconds": sum(known) / len(known) if known else math.nan,
        "devices": sorted(devices - {""}),
    }


def _curves(records: Records, config: AblateConfig) -> dict[str, Any]:
    """Return by measure, arm and seed the evaluations: cost in each unit, and the value."""
    return {
        measure: {
            arm: {
                seed: [
                    [*(point.cost[unit] for unit in UNITS), point.metrics[measure]]
                    for point in run.points
                    if measure in point.metrics
                ]
                for seed, run in records.runs.get(arm, {}).items()
            }
            for arm in config.arms
        }
        for measure in CURVES
    }
