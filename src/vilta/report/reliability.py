"""Reliability diagram: the share of pairs that match, against their predicted probability."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from vilta.report.curves import DARK, LIGHT, LINES, Theme, style_axes


def draw_reliability(bins: dict[str, Any], theme: Theme = LIGHT) -> bytes:
    """Draw raw and calibrated probabilities side by side; a perfect model is on the diagonal. PNG.

    ``bins`` holds those of a ``Reliability`` for ``raw`` and for ``calibrated``.
    """
    figure = Figure(figsize=(6.4, 3.1), layout="constrained")
    figure.set_facecolor(theme.ground)
    for axes, (name, found) in zip(figure.subplots(1, 2, sharey=True), bins.items(), strict=True):
        sure, often, weight = (
            [each[name] for each in found.values()]
            for name in ("confidence", "frequency", "weight")
        )
        error = sum(w * abs(s - o) for s, o, w in zip(sure, often, weight, strict=True))
        axes.plot([0, 1], [0, 1], color=theme.grid, lw=1.2)
        axes.plot(sure, often, color=LINES[0], lw=1.2)
        axes.scatter(sure, often, s=[12 + 300 * w for w in weight], color=LINES[0], alpha=0.6)
        style_axes(axes, f"{name}: calibration error {100 * error:.1f} %", theme)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_xlabel("probability of a match", color=theme.ink, fontsize=8)
    figure.axes[0].set_ylabel("share of pairs that match", color=theme.ink, fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def reliability_pictures(metrics: dict[str, Any]) -> tuple[bytes, bytes] | None:
    """Return the diagram for a light and a dark page; None if the evaluation holds none."""
    bins = metrics.get("reliability")
    return (draw_reliability(bins), draw_reliability(bins, DARK)) if bins else None
