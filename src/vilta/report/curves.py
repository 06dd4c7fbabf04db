"""The curves of a training run, as small multiples."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vilta.report.record import Record

COLUMNS = 4
SMOOTHED_FROM = 40
"""Log lines from which on a running mean is drawn over the raw curve; our choice."""
LINES = ("#3f7fd6", "#d9822b", "#2f9e77")


class Theme(NamedTuple):
    """Colours that go with a light or a dark page."""

    ground: str
    ink: str
    grid: str


LIGHT = Theme(ground="#ffffff", ink="#3a4048", grid="#e6e8eb")
DARK = Theme(ground="#1b1f25", ink="#b9c0c9", grid="#30363f")


class Panel(NamedTuple):
    """One small plot: names in the log with their labels, and what they are multiplied by."""

    title: str
    series: dict[str, str]
    scale: float = 1.0
    held_out: str = ""
    """Start of the names in the evaluations whose metrics are drawn as dots; empty: none."""


PANELS = (
    Panel("masked words, with the image", {"mlm": ""}, held_out="validation/"),
    Panel("masked words, text alone", {"text_mlm": ""}, held_out="validation/"),
    Panel("image-text matching", {"itm": ""}, held_out="validation/"),
    Panel("image-text contrast", {"itc": ""}),  # grows with the batch, so no held-out metric
    Panel("all losses, weighted", {"loss": ""}),
    Panel("captions with a negative, %", {"negatives/share": ""}, 100.0),
    Panel("candidates removed by the filter, %", {"negatives/removed_by_filter": ""}, 100.0),
    Panel("synonyms taken as negatives, %", {"negatives/synonyms": ""}, 100.0),
    Panel(
        "matching accuracy, %",
        {
            "itm/accuracy_true": "true",
            "itm/accuracy_other_text": "other text",
            "itm/accuracy_other_image": "other image",
            "itm/accuracy_synthesised": "synthesised",
        },
        100.0,
    ),
)
RECALL = Panel("held-out retrieval, mean recall, %", {"retrieval/mean_recall": ""})


def draw_curves(record: Record, theme: Theme = LIGHT) -> bytes:
    """Draw all losses and statistics of the log over the steps; PNG.

    Dots are evaluations since a loss began. Panels of what a run does not log are left out.
    """
    names = {name for line in record.steps for name in line}
    panels = [panel for panel in PANELS if names & panel.series.keys()]
    sources: list[list[dict[str, Any]]] = [record.steps] * len(panels)
    if len(record.evaluations) > 1:
        panels.append(RECALL)
        sources.append(record.evaluations)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = Figure(figsize=(3.1 * COLUMNS, 2.35 * rows))
    figure.set_layout_engine("constrained", h_pad=0.1)  # inches, between ticks and the next title
    figure.set_facecolor(theme.ground)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, panel, lines in zip(grid, panels, sources, strict=False):
        _plot(axes, panel, lines, record.evaluations, theme)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[max(0, len(panels) - COLUMNS) : len(panels)]:
        axes.set_xlabel("step", color=theme.ink, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _plot(
    axes: Axes,
    panel: Panel,
    lines: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
    theme: Theme,
) -> None:
    for (name, label), colour in zip(panel.series.items(), LINES, strict=False):
        steps, values = _series(lines, name, panel.scale)
        many = len(steps) >= SMOOTHED_FROM
        axes.plot(steps, values, color=colour, lw=1.5, alpha=0.3 if many else 1, label=label)
        if many:
            axes.lines[-1].set_label("")
            axes.plot(steps, _smooth(values), color=colour, lw=1.5, label=label)
        if panel.held_out:
            # Before its first step in training a loss is that of a head that has learnt nothing.
            begun = [e for e in evaluations if len(steps) and e["step"] >= steps[0]]
            at, dots = _series(begun, panel.held_out + name, panel.scale)
            if len(at):  # an empty plot that is not clipped spoils the layout of them all
                axes.plot(at, dots, "o", color=LINES[1], ms=4.5, label="held out", clip_on=False)
    style_axes(axes, panel.title, theme)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    if panel.scale == 100:
        axes.set_ylim(-3, 103)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=theme.ink, handlelength=1.2)


def style_axes(axes: Axes, title: str, theme: Theme) -> None:
    """Give a small plot the looks of the page."""
    axes.set_title(title, color=theme.ink, fontsize=9, loc="left")
    axes.set_facecolor(theme.ground)
    axes.tick_params(colors=theme.ink, labelsize=8, length=0)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _series(lines: list[dict[str, Any]], name: str, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps and scaled values of the lines that hold ``name``."""
    points = [(line["step"], line[name] * scale) for line in lines if line.get(name) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps), np.array(values)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the curve, over what there is at its ends."""
    half = max(1, len(values) // 40)
    return np.array(
        [np.nanmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )
