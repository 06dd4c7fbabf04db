"""What a run writes and shows."""

import io
import json

import numpy as np
from rich.console import Console
from rich.progress import Progress
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vilta.training.tracking import Tracker, _duration, live_columns

PACE = {"samples_per_s": 123.4, "lr": 0.1}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_figures_go_to_the_file_and_to_tensorboard(tmp_path, capsys):
    with Tracker(tmp_path, start=0, steps=20, main=True) as tracker:
        tracker.log(10, {"loss": 1.5, "loss/mlm": 0.5, "negatives/share": 0.25}, PACE)
        tracker.progress(10, 600.0)
        tracker.progress(11, 540.0)
        tracker.evaluation(
            10,
            {"r1": 0.5, "bad": float("nan"), "a/b/c": 2.0, "a/b/d": 3.0, "r1/yes/no": 4.0},
            {"cat": np.zeros((3, 4, 6), "uint8")},
        )
    first, second = lines(tmp_path)
    assert first == {"step": 10, "loss": 1.5, "loss/mlm": 0.5, "negatives/share": 0.25, **PACE}
    assert second == {
        "step": 10,
        "evaluation": {"r1": 0.5, "bad": None, "a/b/c": 2, "a/b/d": 3, "r1/yes/no": 4},
    }
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "loss/mlm", "evaluation/r1", "train/lr"} <= set(events.Tags()["scalars"])
    assert events.Images("cat")[0].width == 6
    screen = capsys.readouterr().err.splitlines()
    assert screen[0] == "step 10/20  loss 1.500  mlm 0.500  123 samples/s  10 min left"
    assert [line.split() for line in screen[1:]] == [
        ["step", "10,", "evaluation"],
        ["metrics", "r1", "0.5", "bad", "nan"],
        ["a/b", "c", "2", "d", "3"],
        ["r1", "yes/no", "4"],  # what stands below a metric is named whole
    ], "without a terminal, not a line for each step"


def test_a_resumed_run_cuts_what_comes_again_and_a_torn_line(tmp_path):
    with Tracker(tmp_path, start=0, steps=20, main=True) as tracker:
        for step in (5, 10, 15):
            tracker.log(step, {"loss": float(step)}, PACE)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    with Tracker(tmp_path, start=10, steps=20, main=True) as tracker:
        tracker.log(15, {"loss": 0.0}, PACE)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (5, 5.0),
        (10, 10.0),
        (15, 0),
    ]


def test_other_processes_write_nothing(tmp_path, capsys):
    with Tracker(tmp_path, start=0, steps=2, main=False) as tracker:
        tracker.log(1, {"loss": 1.0}, PACE)
        tracker.progress(1, 1.0)
        tracker.skipped(1, ["a"])
        tracker.evaluation(1, {"r1": 1.0}, {})
        tracker.say("hello")
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""


def test_at_80_columns_only_losses_are_cut():
    console = Console(width=80, force_terminal=True, file=io.StringIO(), color_system=None)
    live = Progress(*live_columns(), console=console, expand=True)
    losses = "loss 8.123  mlm 3.210  text_mlm 2.345  itm 0.693  itc 2.222  410 samples/s"
    live.add_task("", total=100_000, completed=51_234, left="3 h 20 min left", shown=losses)
    console.print(live.get_renderable())
    line = console.file.getvalue().rstrip()
    assert len(line) <= 80 and "\n" not in line
    assert "step" in line and "51234/100000" in line.replace(" ", "")
    assert "3 h 20 min left" in line and "loss 8.123" in line and "…" in line
    assert "━" * 8 in line


def test_durations_are_for_people():
    assert [_duration(s) for s in (0.4, 99.0, 150.0, 12e3)] == [
        "0 s",
        "99 s",
        "2 min",
        "3 h 20 min",
    ]
