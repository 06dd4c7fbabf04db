"""What the tables and the sentences of a comparison have in common: names and numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path
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
_TUNED = re.compile(r"tasks/(?P<task>.+\.ya?ml|.+)/(?P<metric>.+)")
UNITS = {"samples": "samples", "seconds": "seconds", "flops": "FLOPs"}


class Section(NamedTuple):
    """A part of the report: what it shows, and how it was computed."""

    title: str
    text: str
    tables: list[tuple[str, Table]]
    main: bool = False
    """Whether a page that only sums the report up shows it too."""


ONE_SEED = " [one seed]"
"""What stands in place of an interval."""


def measure_name(measure: str) -> str:
    """Return what a measure is called in the report."""
    if measure.startswith("edits/kind/"):
        kind = measure.removeprefix("edits/kind/").replace("_", " ")
        return "mean of the kinds" if kind == "macro" else kind
    if tuned := _TUNED.fullmatch(measure):
        return f"fine-tuned, {Path(tuned['task']).stem}: {tuned['metric'].replace('_', ' ')}"
    return NAMES.get(measure, measure.replace("_", " "))


def number(value: float | int | None, digits: int = 1) -> str:
    """Return a number for people, or a dash where there is none."""
    return f"{value:,.{digits}f}" if value is not None and is_number(value) else "-"


def signed(change: dict[str, Any] | None, digits: int = 1) -> str:
    """Return a difference and its interval: ``+3.1 (1.2 to 5.0)``."""
    if change is None:
        return "-"
    shown = f"{change['mean']:+.{digits}f}"
    if is_number(change["low"]):
        return f"{shown} ({change['low']:+.{digits}f} to {change['high']:+.{digits}f})"
    return shown + (ONE_SEED if change["seeds"] < 2 else " in each seed")


def has_curves(summary: dict[str, Any]) -> bool:
    """Whether the runs were measured on their way, not at their end alone."""
    return bool(summary["about"]["evaluations"] > 1)


def head_of(summary: dict[str, Any], first: str) -> tuple[str, ...]:
    """Return the head of a table with a column for each arm, and how many seeds it has."""
    finished = summary["finished"]
    return (first, *(f"{arm} ({len(finished[arm])})" for arm in finished_arms(summary)))


def finished_arms(summary: dict[str, Any]) -> list[str]:
    """Return the arms that have a finished run."""
    return [arm for arm, seeds in summary["finished"].items() if seeds]


def is_number(value: float | int | None) -> bool:
    """Whether there is a number: JSON has null where a summary has NaN."""
    return value is not None and math.isfinite(value)
