"""The tables of a comparison, for the page and for Markdown alike."""

from __future__ import annotations

from typing import Any

from vilta.report.comparison_prose import KINDS, arm_by_arm, multiplicity
from vilta.report.comparison_words import (
    MAIN,
    ONE_SEED,
    UNITS,
    Section,
    finished_arms,
    has_curves,
    head_of,
    is_number,
    measure_name,
    number,
    signed,
)
from vilta.report.html import Table


def sections(summary: dict[str, Any]) -> list[Section]:
    """Return the parts of the report in their order."""
    return [
        part
        for part in (
            _planned(summary),
            _arm_by_arm(summary),
            _final(summary),
            _faster(summary),
            _equal_cost(summary),
            _kinds(summary),
            _corrupted(summary),
            _noise(summary),
            _tuning(summary),
            _cost(summary),
        )
        if part is not None
    ]


def _planned(summary: dict[str, Any]) -> Section:
    tables = []
    if summary["planned"]:
        rows = []
        for row in summary["planned"]:
            seeds = str(row["found"]["seeds"]) if row["found"] else "0"
            rows.append((row["text"], row["verdict"], signed(row["found"]), seeds))
        level = f"{100 * summary['planned'][0]['level']:.1f} % interval"
        head = ("planned before training", "what came out", f"difference ({level})", "seeds")
        tables.append(("", Table(head, rows)))
    return Section("Planned comparisons", multiplicity(summary), tables, main=True)


def _arm_by_arm(summary: dict[str, Any]) -> Section | None:
    pairs = arm_by_arm(summary)
    if not pairs:  # one arm is finished
        return None
    shown = [kind for kind in KINDS if any(kind in changes for _, _, changes in pairs)]
    rows = [(arm, other, *(changes.get(k, "") for k in shown)) for arm, other, changes in pairs]
    text = (
        "At the end of training, percentage points with 95 % intervals, each by itself. "
        "Each arm against the baseline, and against its own variants."
    )
    head = ("arm", "against", *(KINDS[kind] for kind in shown))
    return Section("Arm by arm", text, [("", Table(head, rows))], main=True)


def _final(summary: dict[str, Any]) -> Section:
    tasks = [m for m in summary["measures"] if m.startswith("tasks/")]
    rows = _arm_rows(summary, [*MAIN, *tasks])
    text = (
        "Mean over the finished runs, in percent, and below it the difference to "
        f"{summary['about']['baseline']} with its 95 % interval."
    )
    tables = [("", Table(head_of(summary, "measure"), rows))]
    return Section("At the end of training", text, tables, main=True)


def _arm_rows(
    summary: dict[str, Any], measures: list[str], found: dict[str, Any] | None = None
) -> list[tuple[str, ...]]:
    """Return a row of means for each measure, and one of differences to the baseline below it."""
    rows = []
    for measure in measures:
        row = (found or summary["measures"]).get(measure)
        if not row:
            continue
        means = [number(row[arm]["mean"]) if arm in row else "-" for arm in finished_arms(summary)]
        rows.append((measure_name(measure), *means))
        changes = [signed(row.get(arm, {}).get("difference")) for arm in finished_arms(summary)]
        if any(change != "-" for change in changes):
            rows.append(("", *("" if change == "-" else change for change in changes)))
    return rows


def _faster(summary: dict[str, Any]) -> Section | None:
    if not summary["faster"]:
        return None
    if not has_curves(summary):
        text = "Each run was measured once, at its end: there is no time to a score before it."
        return Section("Faster?", text, [], main=True)
    rows = []
    for measure, arms in summary["faster"].items():
        for arm, units in arms.items():
            shown = [share_shown(units[unit]) for unit in UNITS]
            reached = f"{units['samples']['reached']} of {units['samples']['seeds']}"
            rows.append((measure_name(measure), arm, *shown, reached))
    base = summary["about"]["baseline"]
    head = ("measure", "arm", *UNITS.values(), "seeds there")
    others = [arm for arm in finished_arms(summary) if arm != base]
    areas = [
        (measure_name(measure), *(signed(row.get(arm, {}).get("difference")) for arm in others))
        for measure, row in summary["area"].items()
    ]
    text = (
        f"What an arm needs to reach the final score of {base}, as a share of what {base} needs: "
        "below 1 is faster. `never` means that no seed got there within the budget, `at most` that "
        "a seed was there at its first evaluation; of two seeds each is given."
    )
    tables = [
        (f"Time to the final score of {base}", Table(head, rows)),
        (f"Mean height of the curve, minus {base}", Table(("measure", *others), areas)),
    ]
    return Section("Faster?", text, tables, main=True)


def _equal_cost(summary: dict[str, Any]) -> Section | None:
    if not has_curves(summary):
        return None
    tables = []
    for unit, found in summary["equal_cost"].items():
        rows = _arm_rows(summary, list(found["measures"]), found["measures"])
        cost = f"{found['cost']:.3g}" if unit == "flops" else number(found["cost"], 0)
        tables.append((f"After {cost} {UNITS[unit]}", Table(head_of(summary, "measure"), rows)))
    if not tables:
        return None
    base = summary["about"]["baseline"]
    text = (
        "What each arm has learnt when it has cost as much as the cheapest run in all, and the "
        f"difference to {base} with its 95 % interval over seeds. An arm that costs more is read "
        "off before its end, and before its cooldown where there is one, which is to its "
        "disadvantage; `budget: seconds` or `flops` trains each arm to its end for the same cost."
    )
    return Section("For the same cost", text, tables)


def _tuning(summary: dict[str, Any]) -> Section | None:
    tuned = summary["about"]["tuned"]
    if tuned is None:
        return None
    arms = list(tuned["scores"])
    choices = dict.fromkeys(choice for scores in tuned["scores"].values() for choice in scores)
    rows = []
    for choice in choices:
        row = [choice]
        for arm in arms:
            best = " (chosen)" if tuned["chosen"][arm] == choice else ""
            row.append(number(tuned["scores"][arm].get(choice)) + best)
        rows.append(tuple(row))
    text = (
        f"{measure_name(tuned['on'])} after {tuned['amount']:,g} "
        f"{summary['about']['budget'].split()[-1]}, one run each from seed "
        f"{tuned['seed']}, on images that the arms are not compared on. One run is a noisy judge "
        "of close choices."
    )
    return Section("What was tuned", text, [("", Table(("settings", *arms), rows))])


def share_shown(found: dict[str, Any]) -> str:
    """Return what a score took as text, from an entry of ``vilta.ablation.budgets.faster``."""
    if not found["reached"]:
        return "never"
    most = "at most " if found.get("at_first") else ""
    # Student's interval of two logarithms says nothing: it reaches from 0 to thousands.
    if found["reached"] < found["seeds"] or found["seeds"] == 2:
        each = [number(v, 2) if v is not None else "never" for v in found["by_seed"].values()]
        first = next(i for i, text in enumerate(each) if text != "never")
        each[first] = most + each[first]
        return ", ".join(each)
    if not is_number(found["low"]):
        return f"{most}{number(found['mean'], 2)}" + (ONE_SEED if found["seeds"] < 2 else "")
    low, high = number(found["low"], 2), number(found["high"], 2)
    return f"{most}{number(found['mean'], 2)} ({low} to {high})"


def _kinds(summary: dict[str, Any]) -> Section | None:
    kinds = [m for m in summary["measures"] if m.startswith("edits/kind/")]
    rows = _arm_rows(summary, kinds)
    if not rows:
        return None
    text = "Caption above its edit, in percent; by the kind of word that was changed."
    return Section("Edits by kind", text, [("", Table(head_of(summary, "kind"), rows))])


def _corrupted(summary: dict[str, Any]) -> Section | None:
    names = [m for m in summary["measures"] if m.startswith("corrupted/")]
    if not names:
        return None
    tables = []
    clean = {"retrieval": "retrieval/mean_recall", "edits": "edits/accuracy"}
    for what, whole in clean.items():
        rows = [("undamaged", *_means(summary, whole))]
        rows += [
            (name.split("/")[1].replace("-", ", strength "), *_means(summary, name))
            for name in names
            if name.endswith(f"/{what}")
        ]
        tables.append((measure_name(whole), Table(head_of(summary, "images"), rows)))
    text = (
        "The same models on damaged images; nothing of the kind was trained. Blur 1, 2, 4 % of "
        "the side; JPEG quality 25, 10, 5; 20, 40, 60 % darker; 10, 25, 40 % of the area hidden."
    )
    return Section("Damaged images", text, tables)


def _noise(summary: dict[str, Any]) -> Section | None:
    if not summary["noise"]:
        return None
    rows = [
        (measure_name(measure), *(signed(row.get(arm)) for arm in finished_arms(summary)))
        for measure, row in summary["noise"].items()
    ]
    text = (
        f"Points that an arm loses when {summary['noise_share']:.0%} of the training images get "
        "the captions of another one; 95 % interval over seeds."
    )
    tables = [("", Table(head_of(summary, "measure"), rows))]
    return Section("Noisy captions", text, tables, main=True)


def _cost(summary: dict[str, Any]) -> Section:
    head = ("arm", "runs", "steps", "samples", "seconds, alone", "seconds, logged", "PFLOP")
    rows = [
        (
            arm,
            str(len(summary["finished"][arm])),
            number(cost["steps"], 0),
            number(cost["samples"], 0),
            number(cost["seconds"], 0),
            number(cost["logged_seconds"], 0),
            f"{cost['flops'] / 1e15:.3g}",
        )
        for arm, cost in summary["cost"].items()
    ]
    differs = [
        (arm, ", ".join(f"{k.split('.')[-1]} {v}" for k, v in changes.items()) or "the baseline")
        for arm, changes in summary["about"]["arms"].items()
    ]
    jobs = summary["about"]["jobs"]
    text = f"`alone`: at the probe's pace. `logged`: as the runs took, up to {jobs} at a time."
    tables = [
        ("", Table(head, rows)),
        ("Settings, where they differ", Table(("arm", "settings"), differs)),
    ]
    return Section("What the arms are, and what they cost", text, tables)


def _means(summary: dict[str, Any], measure: str) -> list[str]:
    row = summary["measures"].get(measure, {})
    return [number(row[arm]["mean"]) if arm in row else "-" for arm in finished_arms(summary)]
