"""The curves of a comparison: each arm's mean over seeds, and the band between its seeds."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from vilta.report.comparison_words import measure_name
from vilta.report.curves import LIGHT, Theme, style_axes

COLOURS = (
    "#69727d",
    "#3f7fd6",
    "#d9822b",
    "#2f9e77",
    "#b1509f",
    "#c2483d",
    "#7a6fd0",
    "#8c8a2a",
)
COLUMNS = 2


def draw_comparison(summary: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw each measure over the samples seen; PNG. The first arm, the baseline, is grey."""
    measures = {
        m: arms for m, arms in summary["curves"].items() if any(map(_points, arms.values()))
    }
    baseline = summary["about"]["baseline"]
    arms = [baseline, *(arm for arm in summary["about"]["arms"] if arm != baseline)]
    colours = {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(arms)}
    rows = max(1, -(-len(measures) // COLUMNS))
    figure = Figure(figsize=(5.2 * COLUMNS, 3.1 * rows + 0.5))
    figure.set_layout_engine("constrained")
    figure.set_facecolor(theme.ground)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, (measure, curves) in zip(grid, measures.items(), strict=False):
        for arm in arms:
            _draw(axes, curves.get(arm, {}), colours[arm], arm, arm == baseline)
        style_axes(axes, f"{measure_name(measure)}, %", theme)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in grid[len(measures) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(measures) - COLUMNS) : len(measures)]:
        axes.set_xlabel("training samples", color=theme.ink, fontsize=8)
    handles, labels = grid[0].get_legend_handles_labels()
    if labels:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=min(5, len(labels)),
            frameon=False,
            fontsize=9,
            labelcolor=theme.ink,
        )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def _draw(
    axes: Axes, seeds: dict[Any, list[list[float]]], colour: str, arm: str, base: bool
) -> None:
    """Draw the mean over the seeds that have a point, and the range between them."""
    points = _points(seeds)
    if not points:
        return
    at = sorted(points)
    values = [points[x] for x in at]
    style = "--" if base else "-"
    axes.plot(at, [np.mean(v) for v in values], style, color=colour, lw=1.8, label=arm)
    if len(seeds) > 1:
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(at, low, high, color=colour, alpha=0.16, lw=0)
    if base:
        axes.axhline(float(np.mean(values[-1])), color=colour, lw=0.8, ls=":")


def _points(seeds: dict[Any, list[list[float]]]) -> dict[float, list[float]]:
    """Return the values by number of samples."""
    found: dict[float, list[float]] = {}
    for points in seeds.values():
        for point in points:
            found.setdefault(point[0], []).append(point[-1])
    return found
