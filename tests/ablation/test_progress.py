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


def test_the_time_that_measuring_takes_is_not_told_as_none(tmp_path):
    cells = [Cell(tmp_path, "vilta", seed) for seed in (0, 1)]
    progress = Progress(dict.fromkeys(cells, 30))
    for cell in cells:
        logged(cell, 30)
    assert progress() == "all 60 steps after 0.0 min, 0 of 2 runs measured"
    (cells[0].place / "measures.json").write_text("{}")
    assert progress() == "all 60 steps after 0.0 min, 1 of 2 runs measured"


@pytest.mark.parametrize(("step", "shown"), [(0, "0"), (7, "7"), (29, "29")])
def test_steps_are_those_of_the_log(tmp_path, step, shown):
    cell = Cell(tmp_path, "vilta", 0)
    logged(cell, step)
    assert Progress({cell: 30})().startswith(f"{shown} of 30 steps")


def test_a_log_may_hold_more_steps_than_are_left_to_take(tmp_path):
    cell = Cell(tmp_path, "vilta", 0)
    logged(cell, 31)
    assert Progress({cell: 30})().startswith("all 30 steps")
