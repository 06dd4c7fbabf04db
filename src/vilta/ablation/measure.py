"""What is measured of a finished run: the suite once more, item by item, and damaged images."""

from __future__ import annotations

import json
from typing import Any

import torch

from vilta.ablation.grid import MEASURES, Cell, Plan, as_precision
from vilta.ablation.suite import Suite
from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.data.corruption import CORRUPTIONS
from vilta.finished_run import load_run
from vilta.tasks.fine_grained import Scored
from vilta.training.folder import METRICS, log_lines, replace_text
from vilta.training.precision import autocast, choose_device, choose_dtype, keep_for_next_step


def measure(config: AblateConfig, plan: Plan, cell: Cell) -> None:
    """Measure the model of a finished run and write ``measures.json``.

    The model of the last step, which is the one that was released.
    """
    task, trained, _ = load_run(str(cell.run))
    device = choose_device(trained.run.device)
    if device.type == "cpu":
        keep_for_next_step()
    task.to(device).eval()
    suite = Suite(config, trained, task)
    dtype, _ = choose_dtype(as_precision(plan.precision), device, task)
    with torch.no_grad(), autocast(device, dtype):
        torch.manual_seed(0)
        metrics = suite.on_the_way() | suite.synonyms()
        scored, blind = [], []
        if suite.ranking != "contrastive":
            scored, blind = suite.scored(suite.edits_loader), suite.blind()
            metrics["edits/accuracy_wrong_image"] = suite.edit_metrics(blind)["edits/accuracy"]
        for corruption in CORRUPTIONS if config.corruptions else ():
            metrics |= suite.corrupted(corruption)
    content = {
        "arm": cell.arm,
        "seed": cell.seed,
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "items": _scores(scored),
        "items_wrong_image": _scores(blind),
        "training": _training(cell, trained),
        "parameters": sum(p.numel() for p in task.model.parameters()),
    }
    replace_text(cell.place / MEASURES, json.dumps(content) + "\n")


def _scores(scored: list[Scored]) -> list[list[float]]:
    """Return the log-odds of a match, text by text, for each item."""
    return [[round(score, 6) for score in found.match[0]] for found in scored]


def _training(cell: Cell, trained: PretrainConfig) -> dict[str, Any]:
    """Return how long the run took, as its log has it: beside other runs, if there were any."""
    lines = log_lines(cell.run / METRICS)
    machine: dict[str, Any] = next((line for line in reversed(lines) if "device" in line), {})
    logged: dict[str, Any] = next((line for line in reversed(lines) if "seconds" in line), {})
    return {
        "steps": trained.optimization.steps,
        "seconds": logged.get("seconds"),
        "skipped_steps": logged.get("skipped_steps"),
        "device": machine.get("device", ""),
        "precision": machine.get("precision", ""),
    }
