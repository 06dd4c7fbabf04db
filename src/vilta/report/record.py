"""What a finished run left on disk: its training log and its evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilta.json_text import json_object, parse_json, with_nan
from vilta.metrics.names import flat
from vilta.screen import command
from vilta.training.folder import METRICS, log_lines


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run's log, line by line, and its newest evaluation."""

    steps: list[dict[str, Any]]
    """Lines of ``metrics.jsonl`` with losses and statistics, by step."""
    evaluations: list[dict[str, Any]]
    """Flat metrics of the evaluations during training, each with its ``step``."""
    machine: dict[str, Any]
    """The ``device`` and ``precision`` that the last steps were computed in."""
    evaluation: dict[str, Any]
    """Content of the newest ``evaluation-*.json``."""
    path: Path
    """That file."""

    @property
    def metrics(self) -> dict[str, Any]:
        """The nested metrics of the newest evaluation."""
        return self.evaluation["metrics"]


EVALUATIONS = "evaluation-*.json"
"""Files of a run's folder that hold an evaluation of pre-training."""


def read_record(run_folder: str) -> Record:
    """Read the log and the newest evaluation of a run.

    Raises ``ValueError`` in one line if the run was not evaluated or a file is not what it should
    be.
    """
    folder = Path(run_folder)
    evaluating = command("evaluate", run_folder, "--data", "DATA")
    paths = sorted(folder.glob(EVALUATIONS), key=lambda path: path.stat().st_mtime)
    found = [path for path in paths if "task" not in json_object(path)]  # --out may name any file
    if not found:
        raise ValueError(f"{run_folder} was not evaluated yet; run: {evaluating}")
    try:
        evaluation = with_nan(parse_json(found[-1].read_text(encoding="utf-8")))
        with_names_of_today(evaluation)
    except (ValueError, AttributeError):
        evaluation = None
    if not isinstance(evaluation, dict) or not {"data", "metrics"} <= evaluation.keys():
        raise ValueError(
            f"{found[-1]} is not an evaluation of this version; delete it and run: {evaluating}"
        )
    lines = log_lines(folder / METRICS)
    machines = [line for line in lines if "device" in line]
    return Record(
        steps=[line for line in lines if "loss" in line],
        evaluations=[
            {"step": line["step"], **line["evaluation"]}
            for line in lines
            if isinstance(line.get("evaluation"), dict)
        ],
        machine={
            name: line[name]
            for line in machines
            for name in ("device", "precision")
            if name in line
        },
        evaluation=evaluation,
        path=found[-1],
    )


def with_names_of_today(evaluation: Any) -> None:
    """Rename, in place, the keys that older versions wrote."""
    if isinstance(evaluation, dict) and "figures" in evaluation:
        evaluation["metrics"] = evaluation.pop("figures")
        for shares in evaluation["metrics"].get("negatives", {}).values():
            shares["generated"] = shares.pop("written", math.nan)


def training_summary(record: Record, parameters: int) -> dict[str, Any]:
    """Return how much training there was: steps, samples seen, minutes, parameters, and on what."""
    summary: dict[str, Any] = {"parameters": parameters, **record.machine}
    if record.steps:
        first, last = record.steps[0], record.steps[-1]
        # The log holds the pace, not the batch: samples/s times seconds is what one line covers.
        per_step = round(first["samples_per_s"] * first["seconds"] / first["step"])
        summary |= {
            "steps": last["step"],
            "samples": last["step"] * per_step,
            "minutes": round(last["seconds"] / 60, 2),
            "samples_per_second": round(last["step"] * per_step / last["seconds"], 1),
        }
    return summary


def all_metrics(record: Record, summary: dict[str, Any]) -> dict[str, Any]:
    """Join evaluation and training to one flat dict, as ``metrics.json`` holds it."""
    shown = {n: v for n, v in record.metrics.items() if n != "reliability"}
    about = {f"evaluation/{n}": v for n, v in record.evaluation.items() if n != "metrics"}
    return {**about, **{f"training/{n}": v for n, v in summary.items()}, **flat(shown)}
