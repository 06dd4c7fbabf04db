"""How far a comparison is, and how long it still takes."""

import json
import time

import pytest

from vilta.ablation.grid import Cell
from vilta.ablation.progress import Progress


def logged(cell, step):
    cell.run.mkdir(parents=True, exist_ok=True)
    (cell.run / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")


def test_time_left_counts_from_the_checkpoint_a_run_goes_on_from(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    cell = Cell(tmp_path, "vilta", 0)
    logged(cell, 60)
    progress = Progress({cell: 100})
    logged(cell, 40)  # the log after the last checkpoint is written anew
    clock[0] = 60.0
    assert progress() == "40 of 100 steps after 1.0 min"
    logged(cell, 50)
    clock[0] = 120.0
    assert progress() == "50 of 100 steps after 2.0 min, about 10 min left"


@pytest.mark.parametrize(("step", "shown"), [(0, "0"), (7, "7"), (30, "30"), (31, "30")])
def test_steps_are_those_of_the_log(tmp_path, step, shown):
    cell = Cell(tmp_path, "vilta", 0)
    logged(cell, step)
    assert Progress({cell: 30})().startswith(f"{shown} of 30 steps")
