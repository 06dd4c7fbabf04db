"""The sentences of a comparison: what came out, what was compared, and how it was computed."""

from __future__ import annotations

from typing import Any

from vilta.report.comparison_words import ONE_SEED, measure_name, signed


def verdict(summary: dict[str, Any]) -> list[str]:
    """Return the opening in sentences: what was planned, and of that first what does not hold."""
    planned = sorted(summary["planned"], key=lambda row: row["verdict"] == "holds")
    said = []
    if planned:
        hold = sum(row["verdict"] == "holds" for row in planned)
        said.append(f"Of {len(planned)} planned comparisons {hold or 'none'} can be shown.")
    said += [f"{row['text']}: {row['verdict']}, {signed(row['found'])}." for row in planned]
    if not planned:
        said += [_in_a_sentence(*row) for row in arm_by_arm(summary)]
    if summary["missing"]:
        said.append(f"Not finished: {', '.join(summary['missing'])}.")
    said.append("Differences are percentage points, with an interval in brackets.")
    return said


KINDS = {
    "worse": "worse in",
    "unclear": "no difference shown in",
    "better": "better in",
    "single": "one seed, which decides nothing",
}
"""How an arm can stand to another; what does not help comes first."""


def arm_by_arm(summary: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """Return for each arm and what it is compared with its changes, by what they are worth."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for kind in KINDS:
        for one in summary["headlines"][kind]:
            told = signed(one).removesuffix(ONE_SEED)  # ``kind`` says so
            change = f"{measure_name(one['measure'])} {told}"
            found.setdefault((one["arm"], one["other"]), {}).setdefault(kind, []).append(change)
    return [(*pair, {k: "; ".join(v) for k, v in kinds.items()}) for pair, kinds in found.items()]


def _in_a_sentence(arm: str, other: str, changes: dict[str, str]) -> str:
    parts = "; ".join(f"{KINDS[kind]}: {text}" for kind, text in changes.items())
    return f"{arm} against {other}: {parts}."


def _unequal_starts(parts_of: dict[int, list[str]] | dict[str, list[str]]) -> str:
    """Say for each seed what differed between its arms at the start, equal seeds together."""
    seeds: dict[str, list[str]] = {}
    for seed, parts in parts_of.items():
        seeds.setdefault(", ".join(parts), []).append(str(seed))
    return " ".join(
        f"From seed {', '.join(alike)} the arms did NOT start alike: {parts} differ."
        for parts, alike in seeds.items()
    )


def setup(summary: dict[str, Any]) -> list[str]:
    """Return the sentences on what was compared, and on what is equal in all arms."""
    about = summary["about"]
    starts = "The runs of a seed were not compared at their start."
    if summary["starts_compared"]:
        starts = (
            "Initial weights, data order, crops and masks are equal in all arms of each seed "
            "(hashes of the weights and of the first batches)."
        )
    if summary["unequal_starts"]:
        starts = _unequal_starts(summary["unequal_starts"])
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
    seeds = ", ".join(map(str, about["seeds"]))
    if about["controls"]:
        seeds += f" (fewer for {', '.join(about['controls'])})"
    return [
        f"Budget {about['budget']} a run, seeds {seeds}, "
        f"{about['evaluations']} evaluations on the way, computed in {about['precision']}.",
        f"Trained on {about['training_data']}; retrieval and masked words on the first "
        f"{about['images']} images of {about['validation']}, edits and paraphrases on "
        f"{about['items']:,} items of {about['edits']}.",
        starts,
        f"{rate}, {_tuning(about)}. Learning rate: {schedule}.",
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
        "bootstrap over seeds and images (4,000 draws), or Student's over seeds where that is "
        "wider, of all others Student's over seeds. With two seeds it is very wide: they hardly "
        "show how seeds vary.",
        "Time to a score: the first time that the curve is at the baseline's final score, straight "
        "lines between evaluations, divided by what the baseline needs by the same rule; "
        "geometric mean over seeds. A curve that is there at its first evaluation counts with all "
        "that came before it, so shares near the first evaluation are upper bounds. Seconds are "
        "steps at the pace that a probe measured with "
        f"nothing else running ({summary['about']['probed_on']}), without reading data; FLOPs are "
        "counted in matrix products and attention of one step, teachers included, evaluation and "
        "optimizer not.",
        "Area: mean height of the curve from the first evaluation to the last, over samples.",
        "At equal cost: what each curve is at when it has cost as much as the cheapest run costs "
        "in all, straight lines between evaluations; seconds and FLOPs as above.",
        "Planned comparisons were written into the settings before the first run; their intervals "
        "hold together at 95 % (Bonferroni). All other figures were looked at afterwards.",
    ]


def multiplicity(summary: dict[str, Any]) -> str:
    """Say which comparisons were planned, and how many there are of the others."""
    planned, found = len(summary["planned"]), summary["looked_at"]
    text = "Nothing was planned before training. "
    if planned:
        text = (
            f"{planned} comparisons were planned before training; their intervals hold together "
            "in 95 % of such experiments (Bonferroni). "
        )
    count, excluding = found["intervals"], found["exclude_zero"]
    return text + (
        f"Everything else was looked at afterwards: of {count} differences at the end of training "
        f"{excluding} have an interval without zero, and if no arm differed from another, about "
        f"{round(count / 20)} would, by chance. They say what to test next, and prove nothing."
    )


def _tuning(about: dict[str, Any]) -> str:
    """Say how much tuning each arm got."""
    tuned = about["tuned"]
    if tuned is None:
        return "nothing was tuned for any of them within this comparison"
    count = len(next(iter(tuned["scores"].values())))
    best = "; ".join(f"{arm} {choice}" for arm, choice in tuned["chosen"].items())
    return (
        f"but for what was tuned, with the same effort for each arm: {count} runs of "
        f"{tuned['amount']:g} {about['budget'].split()[-1]} from seed {tuned['seed']}, the best by "
        f"{measure_name(tuned['on'])} on other images of {about['validation']} ({best})"
    )
