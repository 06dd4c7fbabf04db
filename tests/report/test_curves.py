"""The curves of a run's log."""

import warnings
from pathlib import Path

from matplotlib.axes import Axes

from vilta.report.curves import draw_curves
from vilta.report.record import Record


def test_an_evaluation_without_losses_has_no_dots(monkeypatch):
    """As in the runs of a comparison: an empty plot spoilt the layout, with a warning."""
    drawn = []
    plot = Axes.plot

    def noted(axes, *arguments, **options):
        drawn.append(options["label"])
        return plot(axes, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    steps = [{"step": step, "mlm": 2.0 - step / 10} for step in range(5)]
    record = Record(
        steps=steps,
        evaluations=[{"step": 2}, {"step": 4}],
        machine={},
        evaluation={},
        path=Path("evaluation-x.json"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert draw_curves(record).startswith(b"\x89PNG")
        assert "held out" not in drawn
        for line in record.evaluations:
            line["validation/mlm"] = 1.5
        draw_curves(record)
    assert drawn.count("held out") == 1


def test_the_loss_of_a_head_that_has_still_to_begin_has_no_dot(monkeypatch):
    """The evaluation after step 2 knows matching, which begins at step 3."""
    dots = []
    plot = Axes.plot

    def noted(axes, at, values, *arguments, **options):
        if options["label"] == "held out":
            dots.append(list(at))
        return plot(axes, at, values, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    steps = [
        {"step": step, "mlm": 2.0} | ({"itm": 1.4} if step > 2 else {}) for step in range(1, 6)
    ]
    evaluations = [{"step": n, "validation/mlm": 2.0, "validation/itm": 1.5} for n in (2, 4)]
    record = Record(
        steps=steps,
        evaluations=evaluations,
        machine={},
        evaluation={},
        path=Path("evaluation.json"),
    )
    draw_curves(record)
    assert dots == [[2, 4], [4]]
