"""What became of the generated negatives, epoch by epoch, read from a run's log."""

from __future__ import annotations

import math
from typing import Any

from vilta.report.html import Table

COLUMNS = {
    "negatives/share": "captions with one",
    "negatives/removed_by_filter": "candidates filtered out",
    "negatives/synonyms": "words replaced by a synonym",
    "itm/accuracy_synthesised": "recognised as wrong",
}
"""Names in the log, which has shares of 1, and what the page calls them."""


def by_epoch(steps: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Return by epoch, from 1, the means of ``COLUMNS`` over its steps, in percent.

    A line of the log is the mean over the steps since the line before it, and counts for the epoch
    in which it was written. What no step of an epoch had is left out; empty for a run without
    negatives, or on data of unknown size.
    """
    sums: dict[int, dict[str, float]] = {}
    counts: dict[int, dict[str, int]] = {}
    before = 0
    for line in steps:
        covered, before = line["step"] - before, line["step"]
        if "epoch" not in line:
            continue
        epoch = max(1, math.ceil(line["epoch"] - 1e-9))
        for name in COLUMNS:
            if line.get(name) is not None:
                sum_, count = sums.setdefault(epoch, {}), counts.setdefault(epoch, {})
                sum_[name] = sum_.get(name, 0.0) + covered * line[name]
                count[name] = count.get(name, 0) + covered
    return {
        epoch: {name: 100 * value / counts[epoch][name] for name, value in found.items()}
        for epoch, found in sums.items()
    }


def epoch_table(steps: list[dict[str, Any]]) -> Table:
    """Return ``by_epoch`` as a table, without rows where there is nothing to tell."""
    rows = [
        (str(epoch), *(f"{found[name]:.1f}" if name in found else "-" for name in COLUMNS))
        for epoch, found in by_epoch(steps).items()
    ]
    return Table(("epoch", *COLUMNS.values()), rows)
