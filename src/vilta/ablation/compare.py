"""What the runs say: each arm against the baseline, seed by seed on the same data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vilta.ablation.grid import noisy
from vilta.ablation.records import CURVES, Records, RunRecord
from vilta.ablation.statistics import t_interval, two_level_interval
from vilta.config.ablate import AblateConfig
from vilta.metrics.bootstrap import Interval

HEADLINES = (
    "retrieval/mean_recall",
    "edits/accuracy",
    "edits/rejected",
    "edits/paraphrases_accepted",
    "masked_words/with_image",
)
"""Measures that the first paragraph goes through."""


def _accuracy(truth: list[int], scores: list[float]) -> list[float]:
    wrong = [score for is_true, score in zip(truth, scores, strict=True) if not is_true]
    return [float(scores[0] > max(wrong))]


def _rejected(truth: list[int], scores: list[float]) -> list[float]:
    return [float(score <= 0) for true, score in zip(truth, scores, strict=True) if not true]


def _accepted(truth: list[int], scores: list[float]) -> list[float]:
    return [float(score > 0) for true, score in zip(truth[1:], scores[1:], strict=True) if true]


ItemMeasure = Callable[[list[int], list[float]], list[float]]
"""From an item's truth and its texts' log-odds of a match to the values, 0 to 1, that a measure is
the mean of; an item may have several, or none."""

ITEM_MEASURES: dict[str, ItemMeasure] = {
    "edits/accuracy": _accuracy,
    "edits/rejected": _rejected,
    "edits/paraphrases_accepted": _accepted,
    "edits/captions_accepted": lambda truth, scores: [float(scores[0] > 0)],
}
"""Measures whose differences have an interval over images, too."""


def differences(
    records: Records, arm: str, other: str, measure: str, level: float = 0.95
) -> dict[str, Any] | None:
    """Return ``arm`` minus ``other`` in a final measure, with its interval; None without pairs."""
    one, two = records.finished(arm), records.finished(other)
    seeds = [s for s in one if s in two and _known(one[s], measure) and _known(two[s], measure)]
    if not seeds:
        return None
    if measure in ITEM_MEASURES and all(one[s].items and two[s].items for s in seeds):
        of = ITEM_MEASURES[measure]
        values = [_values(records, one[s], of) - _values(records, two[s], of) for s in seeds]
        pairs = zip(records.items, one[seeds[0]].items, strict=True)
        groups = [item["image"] for item, scores in pairs for _ in of(item["truth"], scores)]
        found, method = (
            two_level_interval(groups, 100 * np.stack(values), level),
            "seeds and images",
        )
    else:
        paired = [_value(one[s], measure) - _value(two[s], measure) for s in seeds]
        found, method = t_interval(paired, level), "seeds"
    return {**interval(found), "seeds": len(seeds), "over": method}


def final_measures(records: Records, config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Return by measure and arm: the mean over seeds, each seed's value, minus the baseline."""
    names: dict[str, None] = {}
    for arm in config.arms:
        for run in records.finished(arm).values():
            names |= dict.fromkeys([*run.metrics, *run.tasks])
    table: dict[str, dict[str, Any]] = {}
    for measure in names:
        row: dict[str, Any] = {}
        for arm in config.arms:
            runs = records.finished(arm)
            values = {s: _value(run, measure) for s, run in runs.items() if _known(run, measure)}
            if not values:
                continue
            row[arm] = {"mean": float(np.mean([*values.values()])), "values": values}
            if arm != config.baseline:
                found = differences(records, arm, config.baseline, measure)
                row[arm]["difference"] = found
        table[measure] = row
    return table


def pairs_of_arms(config: AblateConfig) -> list[tuple[str, str]]:
    """Return what the opening goes through: each arm with the baseline, and with its variants.

    A variant is called as its arm, then ``-`` or ``+``: ``vilta-no-filter`` of ``vilta``. Those of
    the baseline are compared with it as all arms are.
    """
    pairs = [(arm, config.baseline) for arm in config.arms if arm != config.baseline]
    for variant in config.arms:
        whole = [arm for arm in config.arms if variant.startswith((f"{arm}-", f"{arm}+"))]
        if whole and (arm := max(whole, key=len)) != config.baseline:
            pairs.append((arm, variant))
    return list(dict.fromkeys(pairs))  # the variant may be the baseline itself


def noise_losses(records: Records, config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Return by measure and arm how much the arm loses when captions are moved in training."""
    table: dict[str, dict[str, Any]] = {}
    if not config.caption_noise:
        return table
    for measure in CURVES:
        row = {}
        for arm in config.arms:
            clean = records.finished(arm)
            dirty = records.finished(noisy(arm, config.caption_noise))
            lost = [
                _value(clean[s], measure) - _value(dirty[s], measure)
                for s in clean
                if s in dirty and _known(clean[s], measure) and _known(dirty[s], measure)
            ]
            if lost:
                row[arm] = {**interval(t_interval(lost)), "seeds": len(lost)}
        if row:
            table[measure] = row
    return table


def planned(records: Records, config: AblateConfig) -> list[dict[str, Any]]:
    """Return what came of each planned comparison.

    The level of the intervals is raised so that all of them hold together in 95 % (Bonferroni).
    """
    comparisons = config.comparisons()
    level = 1 - 0.05 / max(1, len(comparisons))
    rows = []
    for text, plan in zip(config.planned, comparisons, strict=True):
        found = differences(records, plan.arm, plan.other, plan.measure, level)
        rows.append({"text": text, "level": level, "found": found, "verdict": "not measured"})
        if found is None:
            continue
        sign = 1 if plan.direction == ">" else -1
        low, high = sorted((sign * found["low"], sign * found["high"]))
        if found["seeds"] < 2:
            rows[-1]["verdict"] = "one seed: open"
        elif low > 0:
            rows[-1]["verdict"] = "holds"
        else:
            rows[-1]["verdict"] = "the opposite holds" if high < 0 else "not shown"
    return rows


def disagreements(records: Records, config: AblateConfig, arm: str) -> list[dict[str, Any]]:
    """Return the items on which an arm and the baseline disagree most, half in favour of each.

    The margin between caption and edit is averaged over the seeds that both have; only items that
    one of them gets right and the other wrong count, and no two of one image.
    """
    one, two = records.finished(arm), records.finished(config.baseline)
    seeds = [s for s in one if s in two and one[s].items and two[s].items]
    if not seeds or not records.items:
        return []
    own, base = (
        np.mean(
            [
                [_margin(records, i, run[s].items[i]) for i in range(len(records.items))]
                for s in seeds
            ],
            axis=0,
        )
        for run in (one, two)
    )
    found: list[dict[str, Any]] = []
    for better, (high, low) in {arm: (own, base), config.baseline: (base, own)}.items():
        seen: set[str] = set()
        order = np.argsort(-(high - low))
        for i in order[(high[order] > 0) & (low[order] < 0)]:
            if len(seen) == config.examples // 2:
                break
            item = records.items[int(i)]
            if item["image"] in seen:
                continue
            seen.add(item["image"])
            found.append(
                {
                    "right": better,
                    "image": item["image"],
                    "caption": item["texts"][0],
                    "edit": next(
                        t for t, true in zip(item["texts"], item["truth"], strict=True) if not true
                    ),
                    "category": item["category"],
                    "margins": {arm: float(own[i]), config.baseline: float(base[i])},
                }
            )
    return found


def _margin(records: Records, item: int, scores: list[float]) -> float:
    truth = records.items[item]["truth"]
    return scores[0] - max(s for true, s in zip(truth, scores, strict=True) if not true)


def _values(records: Records, run: RunRecord, of: ItemMeasure) -> np.ndarray:
    pairs = zip(records.items, run.items, strict=True)
    return np.concatenate([of(item["truth"], scores) for item, scores in pairs])


def _value(run: RunRecord, measure: str) -> float:
    return {**run.metrics, **run.tasks}[measure]


def _known(run: RunRecord, measure: str) -> bool:
    return measure in run.metrics or measure in run.tasks


def interval(found: Interval) -> dict[str, Any]:
    """Return an interval as report.json holds it."""
    return {"mean": found.mean, "low": found.low, "high": found.high}
