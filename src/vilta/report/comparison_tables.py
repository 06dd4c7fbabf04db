"""The tables and sentences of a comparison, for the page and for Markdown alike."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from vilta.report.html import Table

NAMES = {
    "retrieval/mean_recall": "retrieval, mean recall",
    "retrieval/matching": "retrieval, by matching alone",
    "retrieval/contrastive": "retrieval, by contrast alone",
    "edits/accuracy": "caption above its edit",
    "edits/rejected": "edits rejected",
    "edits/captions_accepted": "captions accepted",
    "edits/paraphrases_accepted": "paraphrases accepted",
    "edits/both_sides": "both sides (edits and paraphrases)",
    "edits/accuracy_wrong_image": "caption above its edit, wrong image",
    "masked_words/with_image": "masked words, with the image",
    "masked_words/wrong_image": "masked words, wrong image",
    "masked_words/text_only": "masked words, text alone",
    "synonyms/true": "probability of the masked word",
    "synonyms/synonym": "probability of its synonyms",
    "synonyms/wrong": "probability of wrong words of the kind",
}
MAIN = (*NAMES,)
UNITS = {"samples": "samples", "seconds": "seconds", "flops": "FLOPs"}


class Section(NamedTuple):
    """A part of the report: what it shows, and how it was computed."""

    title: str
    text: str
    tables: list[tuple[str, Table]]


def measure_name(measure: str) -> str:
    """Return what a measure is called in the report."""
    if measure.startswith("edits/kind/"):
        kind = measure.removeprefix("edits/kind/").replace("_", " ")
        return "mean of the kinds" if kind == "macro" else kind
    return NAMES.get(measure, measure.replace("_", " "))


def number(value: float | int | None, digits: int = 1) -> str:
    """Return a number for people, or a dash where there is none."""
    return f"{value:,.{digits}f}" if value is not None and _known(value) else "-"


def signed(change: dict[str, Any] | None, digits: int = 1) -> str:
    """Return a difference and its interval: ``+3.1 (1.2 to 5.0)``."""
    if change is None:
        return "-"
    shown = f"{change['mean']:+.{digits}f}"
    if _known(change["low"]):
        shown += f" ({change['low']:+.{digits}f} to {change['high']:+.{digits}f})"
    return shown + (" [one seed]" if change["seeds"] < 2 else "")


def verdict(summary: dict[str, Any]) -> list[str]:
    """Return the opening in sentences: what does not help comes first."""
    base, found = summary["about"]["baseline"], summary["headlines"]
    openings = {
        "worse": f"Worse than {base}",
        "unclear": f"No difference to {base} shown",
        "better": f"Better than {base}",
        "single": "From one seed, which decides nothing",
    }
    said = []
    if summary["planned"]:
        hold = sum(row["verdict"] == "holds" for row in summary["planned"])
        said.append(
            f"Of {len(summary['planned'])} planned comparisons {hold or 'none'} can be shown."
        )
    for kind, opening in openings.items():
        for arm in dict.fromkeys(one["arm"] for one in found[kind]):
            changes = [
                f"{measure_name(one['measure'])} {signed({**one, 'seeds': 2})}"
                for one in found[kind]
                if one["arm"] == arm
            ]
            said.append(f"{opening}: {arm} in {'; '.join(changes)}.")
    if summary["missing"]:
        said.append(f"Not finished: {', '.join(summary['missing'])}.")
    said.append(
        "Percentage points with 95 % intervals, each comparison by itself; what was planned before "
        "training is in the table of planned comparisons."
    )
    return said


def sections(summary: dict[str, Any]) -> list[Section]:
    """Return the parts of the report in their order."""
    return [
        part
        for part in (
            _planned(summary),
            _final(summary),
            _faster(summary),
            _kinds(summary),
            _corrupted(summary),
            _noise(summary),
            _cost(summary),
        )
        if part is not None
    ]


def setup(summary: dict[str, Any]) -> list[str]:
    """Return the sentences on what was compared, and on what is equal in all arms."""
    about = summary["about"]
    starts = "The runs of a seed were not compared at their start."
    if summary["starts_compared"]:
        starts = (
            "Initial weights, data order, crops and masks are equal in all arms of each seed "
            "(hashes of the weights and of the first batches)."
        )
    for seed, parts in summary["unequal_starts"].items():
        starts = f"In seed {seed} the arms did NOT start alike: {', '.join(parts)} differ."
    rates = sorted(set(about["lr"].values()))
    rate = "The same learning rate in all arms" if len(rates) == 1 else f"Learning rates {rates}"
    schedule = about["schedule"]
    if schedule == "constant-cooldown":
        schedule = (
            f"constant after {about['warmup']:.0%} of warm-up, then falling to 0 over the last "
            f"{about['cooldown']:.0%}; points before that are what a run so long would have "
            "without its cooldown, so the time to the baseline's cooled final score is rather "
            "overstated for every arm"
        )
    elif schedule != "constant":
        schedule += (
            ", which falls from the start: a score on the way is not what a run of that length "
            "would reach, and times to a score are overstated"
        )
    return [
        f"Budget {about['budget']} a run, seeds {', '.join(map(str, about['seeds']))}, "
        f"{about['evaluations']} evaluations on the way, computed in {about['precision']}.",
        f"Trained on {about['training_data']}; retrieval and masked words on the first "
        f"{about['images']} images of {about['validation']}, edits and paraphrases on "
        f"{about['items']:,} items of {about['edits']}.",
        starts,
        f"{rate}, nothing was tuned for any of them within this comparison. Learning rate: "
        f"{schedule}.",
        "The model of the last step is measured, not the best on the way.",
    ]


def how_computed(summary: dict[str, Any]) -> list[str]:
    """Return how each figure came about, a paragraph each."""
    return [
        "Retrieval: each image with its first caption; all pairs are ranked by matching (and "
        "contrast added where an arm trained it). Mean of R@1, R@5 and R@10 both ways.",
        "Edits: a caption must match better than its minimally changed version (accuracy); "
        "rejected and accepted ask whether a match is less or more likely than not. A model that "
        "rejects all that is new would reject edits and paraphrases alike, so both stand side by "
        "side; they depend on how an arm weighs true and false pairs in its loss (ALBEF's mean "
        "over rows has two false pairs for a true one), which accuracy does not. With a wrong "
        "image, only the text can tell: chance is 50 %.",
        "Masked words: 15 % of the words, the same in all arms, first guess right. Synonyms: 40 % "
        "masked, over words that have a synonym of one token; probability of the word, of its "
        "synonyms together, and of all wrong words of its kind together.",
        "Differences to the baseline are paired by seed. Of measures over items the interval is a "
        "bootstrap over seeds and images (4,000 draws), of all others Student's over seeds. With "
        "two seeds the first is too narrow, as two seeds can hardly show how seeds vary, and the "
        "second very wide.",
        "Time to a score: the first time that the curve is at the baseline's final score, straight "
        "lines between evaluations, divided by what the baseline needs by the same rule; "
        "geometric mean over seeds. A curve that is there at its first evaluation counts with all "
        "that came before it, so shares near the first evaluation are upper bounds. Seconds are "
        "steps at the pace that a probe measured with "
        f"nothing else running ({summary['about']['probed_on']}), without reading data; FLOPs are "
        "counted in matrix products and attention of one step, teachers included, evaluation and "
        "optimizer not.",
        "Area: mean height of the curve from the first evaluation to the last, over samples.",
        "Planned comparisons were written into the settings before the first run; their intervals "
        "hold together at 95 % (Bonferroni). All other figures were looked at afterwards: of "
        "twenty such intervals one is expected to exclude zero by chance.",
    ]


def _planned(summary: dict[str, Any]) -> Section | None:
    if not summary["planned"]:
        return None
    rows = []
    for row in summary["planned"]:
        seeds = str(row["found"]["seeds"]) if row["found"] else "0"
        rows.append((row["text"], row["verdict"], signed(row["found"]), seeds))
    level = f"{100 * summary['planned'][0]['level']:.1f} % interval"
    head = ("planned before training", "what came out", f"difference ({level})", "seeds")
    return Section("Planned comparisons", "", [("", Table(head, rows))])


def _final(summary: dict[str, Any]) -> Section:
    tasks = [m for m in summary["measures"] if m.startswith("tasks/")]
    rows = _arm_rows(summary, [*MAIN, *tasks])
    text = (
        "Mean over the finished runs, in percent, and below it the difference to "
        f"{summary['about']['baseline']} with its 95 % interval."
    )
    return Section("At the end of training", text, [("", Table(_head(summary, "measure"), rows))])


def _arm_rows(summary: dict[str, Any], measures: list[str]) -> list[tuple[str, ...]]:
    rows = []
    for measure in measures:
        row = summary["measures"].get(measure)
        if not row:
            continue
        means = [number(row[arm]["mean"]) if arm in row else "-" for arm in _arms(summary)]
        rows.append((measure_name(measure), *means))
        changes = [signed(row.get(arm, {}).get("difference")) for arm in _arms(summary)]
        if any(change != "-" for change in changes):
            rows.append(("", *("" if change == "-" else change for change in changes)))
    return rows


def _faster(summary: dict[str, Any]) -> Section | None:
    if not summary["faster"]:
        return None
    rows = []
    for measure, arms in summary["faster"].items():
        for arm, units in arms.items():
            shown = [_share_shown(units[unit]) for unit in UNITS]
            reached = f"{units['samples']['reached']} of {units['samples']['seeds']}"
            rows.append((measure_name(measure), arm, *shown, reached))
    base = summary["about"]["baseline"]
    head = ("measure", "arm", *UNITS.values(), "seeds there")
    others = [arm for arm in _arms(summary) if arm != base]
    areas = [
        (measure_name(measure), *(signed(row.get(arm, {}).get("difference")) for arm in others))
        for measure, row in summary["area"].items()
    ]
    text = (
        f"What an arm needs to reach the final score of {base}, as a share of what {base} needs: "
        "below 1 is faster. `never` means that no seed got there within the budget."
    )
    tables = [
        (f"Time to the final score of {base}", Table(head, rows)),
        (f"Mean height of the curve, minus {base}", Table(("measure", *others), areas)),
    ]
    return Section("Faster?", text, tables)


def _share_shown(found: dict[str, Any]) -> str:
    if not found["reached"]:
        return "never"
    if found["reached"] < found["seeds"]:
        each = [number(v, 2) if v is not None else "never" for v in found["by_seed"].values()]
        return ", ".join(each)
    if not _known(found["low"]):
        return f"{number(found['mean'], 2)} [one seed]"
    return f"{number(found['mean'], 2)} ({number(found['low'], 2)} to {number(found['high'], 2)})"


def _kinds(summary: dict[str, Any]) -> Section | None:
    kinds = [m for m in summary["measures"] if m.startswith("edits/kind/")]
    rows = _arm_rows(summary, kinds)
    if not rows:
        return None
    text = "Caption above its edit, in percent; by the kind of word that was changed."
    return Section("Edits by kind", text, [("", Table(_head(summary, "kind"), rows))])


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
        tables.append((measure_name(whole), Table(_head(summary, "images"), rows)))
    text = (
        "The same models on damaged images; nothing of the kind was trained. Blur 1, 2, 4 % of "
        "the side; JPEG quality 25, 10, 5; 20, 40, 60 % darker; 10, 25, 40 % of the area hidden."
    )
    return Section("Damaged images", text, tables)


def _noise(summary: dict[str, Any]) -> Section | None:
    if not summary["noise"]:
        return None
    rows = [
        (measure_name(measure), *(signed(row.get(arm)) for arm in _arms(summary)))
        for measure, row in summary["noise"].items()
    ]
    text = (
        f"Points that an arm loses when {summary['noise_share']:.0%} of the training images get "
        "the captions of another one; 95 % interval over seeds."
    )
    return Section("Noisy captions", text, [("", Table(_head(summary, "measure"), rows))])


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
    return [number(row[arm]["mean"]) if arm in row else "-" for arm in _arms(summary)]


def _head(summary: dict[str, Any], first: str) -> tuple[str, ...]:
    finished = summary["finished"]
    return (first, *(f"{arm} ({len(finished[arm])})" for arm in _arms(summary)))


def _arms(summary: dict[str, Any]) -> list[str]:
    return [arm for arm, seeds in summary["finished"].items() if seeds]


def _known(value: float | int | None) -> bool:
    """Whether there is a number: JSON has null where a summary has NaN."""
    return value is not None and math.isfinite(value)
