"""What the runs of a comparison left behind, read for its report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilta.ablation.grid import ITEMS, MEASURES, START, Cell, Plan, all_arms
from vilta.ablation.start import differences
from vilta.config.ablate import AblateConfig
from vilta.json_text import with_nan
from vilta.training.folder import METRICS, log_lines

UNITS = ("samples", "seconds", "flops")
CURVES = (
    "retrieval/mean_recall",
    "edits/accuracy",
    "edits/both_sides",
    "masked_words/with_image",
)
"""Measures whose curves are compared."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluation on the way, and what training had cost until then."""

    cost: dict[str, float]
    """By unit; ``seconds`` are the steps at the probe's pace."""
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: its curve, and what was measured at the end (empty if it is not finished)."""

    arm: str
    seed: int
    points: list[Point]
    metrics: dict[str, float]
    items: list[list[float]]
    items_wrong_image: list[list[float]]
    tasks: dict[str, float]
    training: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether its final model was measured."""
        return bool(self.metrics)

    def curve(self, measure: str, unit: str) -> list[tuple[float, float]]:
        """Return (cost, value) of each evaluation that has the measure."""
        points = [(p.cost[unit], p.metrics.get(measure, math.nan)) for p in self.points]
        return [(cost, value) for cost, value in points if not math.isnan(value)]


@dataclass(frozen=True, kw_only=True)
class Records:
    """All runs by arm and seed, the items they were measured on, and how they started."""

    runs: dict[str, dict[int, RunRecord]]
    items: list[dict[str, Any]]
    unequal: dict[int, list[str]]
    """By seed: in what the arms did not start alike; empty lists where they did."""

    def finished(self, arm: str) -> dict[int, RunRecord]:
        """Return an arm's finished runs by seed."""
        return {seed: run for seed, run in self.runs.get(arm, {}).items() if run.finished}


def read_records(config: AblateConfig, plan: Plan) -> Records:
    """Read what there is of the runs that the settings name."""
    runs: dict[str, dict[int, RunRecord]] = {}
    starts: dict[int, dict[str, Any]] = {}
    for arm in all_arms(config):
        for seed in config.seeds:
            cell = Cell(Path(config.out), arm, seed)
            if arm in plan.arms and (cell.run / METRICS).is_file():
                runs.setdefault(arm, {})[seed] = _read_run(config, plan, cell)
            if (cell.place / START).is_file() and arm in config.arms:
                starts.setdefault(seed, {})[arm] = _json(cell.place / START)
    items = _json(Path(config.out) / ITEMS) if (Path(config.out) / ITEMS).is_file() else []
    unequal = {seed: differences(found) for seed, found in starts.items()}
    return Records(runs=runs, items=items, unequal=unequal)


def _read_run(config: AblateConfig, plan: Plan, cell: Cell) -> RunRecord:
    arm = plan.arms[cell.arm]
    points = []
    for line in log_lines(cell.run / METRICS):
        if "evaluation" not in line:
            continue
        step = line["step"]
        cost = {
            "samples": float(step * arm.batch),
            "seconds": arm.cost(arm.seconds, step),
            "flops": arm.cost(arm.flops, step),
        }
        points.append(Point(cost=cost, metrics=line["evaluation"]))
    final = _json(cell.place / MEASURES) if cell.measured else {}
    tuned = {task: cell.tuned(task) for task in config.tasks}
    found = {task: with_nan(_json(path)) for task, path in tuned.items() if path.is_file()}
    tasks = {f"tasks/{task}/{v['metric']}": v["value"] for task, v in found.items()}
    return RunRecord(
        arm=cell.arm,
        seed=cell.seed,
        points=points,
        metrics=final.get("metrics", {}),
        items=final.get("items", []),
        items_wrong_image=final.get("items_wrong_image", []),
        tasks=tasks,
        training=final.get("training", {}),
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
