"""Settings tuned for each arm alone: the same values for all arms, on pairs kept apart.

OUT/tuning/vilta+lr=1e-3/seed-1000/run    a run of `vilta pretrain`
OUT/plan.json                             the score of each choice, once an arm has them all
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from vilta.ablation.arms import arm_settings
from vilta.ablation.grid import (
    LOG,
    MEASURES,
    SETTINGS,
    START,
    Cell,
    Plan,
    as_run,
    cells,
    noisy,
    steps_for,
)
from vilta.ablation.runner import Job, part_command
from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.evaluation.retrieval import trained_ranking
from vilta.training.folder import METRICS, log_lines, replace_text

FOLDER = "tuning"
_COSTLY = {
    "optimization": ("batch_size", "accumulate", "steps"),
    "objective": ("mlm_start", "itm_start"),
}
"""Settings on which the plan of an arm rests."""


class Trial(NamedTuple):
    """A run that tries settings for an arm."""

    arm: str
    choice: str
    cell: Cell


def choices(config: AblateConfig) -> list[str]:
    """Return all combinations of the values of ``config.tune``, each as an arm's suffix."""
    axes = []
    for text in config.tune:
        name, _, values = text.partition("=")
        axes.append([f"{name}={value}" for value in values.split("/")])
    return ["+".join(one) for one in product(*axes)] if axes else []


def trials(config: AblateConfig, plan: Plan) -> list[Trial]:
    """Return the runs of the arms that are not tuned yet.

    Raises ``ValueError`` for a setting that would change the budget, for an arm that ``tune_on``
    does not measure, and for one some run of which was begun before anything was tuned.
    """
    folder = Path(config.out) / FOLDER
    found = []
    for arm in config.arms:
        if arm in plan.tuning:
            continue
        for choice in choices(config):
            _require_same_budget(config, arm, choice)
            _require_measured(config, f"{arm}+{choice}")
            cell = Cell(folder, f"{arm}+{choice}", config.tune_seed)
            found.append(Trial(arm, choice, cell))
    waiting = {trial.arm for trial in found}
    waiting |= {noisy(arm, config.caption_noise) for arm in waiting}
    for cell in cells(config):
        if cell.arm in waiting and (cell.place / START).is_file():
            raise ValueError(
                f"{cell.name} was begun before {', '.join(config.tune)} was tuned for it; choose "
                "another --out"
            )
    return found


def find_trial(config: AblateConfig, plan: Plan, name: str) -> Trial:
    """Return the run that is called so; ``ValueError`` if there is none."""
    for trial in trials(config, plan):
        if trial.cell.name == name:
            return trial
    raise ValueError(f"there is no run {name!r} left to tune")


def trial_settings(config: AblateConfig, plan: Plan, trial: Trial) -> PretrainConfig:
    """Return the settings of a run, which is evaluated at its end alone."""
    settings = arm_settings(config, trial.cell.arm)
    amount = config.tune_amount or config.amount
    steps = steps_for(replace(config, amount=amount, evaluations=1), plan.arms[trial.arm])
    return as_run(settings, plan, trial.cell, steps=steps, every=steps)


def trial_job(config: AblateConfig, trial: Trial) -> Job:
    """Return what is to be done of a run that is not finished."""
    command = part_command(config.program, Path(config.out) / SETTINGS, f"tune {trial.cell.name}")
    commands = [] if trial.cell.trained else [command]
    return Job(trial.cell.name, commands, trial.cell.place / LOG, partial(_score, config, trial))


def chosen(config: AblateConfig, plan: Plan) -> Plan:
    """Return the plan with the scores of all arms; their runs must be finished.

    Raises ``ValueError`` for an arm of which every choice has diverged.
    """
    tuning = dict(plan.tuning)
    for arm, choice, cell in trials(config, plan):
        content = json.loads((cell.place / MEASURES).read_text(encoding="utf-8"))
        tuning[arm] = tuning.get(arm, {}) | {choice: content["score"]}
    for arm, scores in tuning.items():
        if not any(scores.values()):
            raise ValueError(
                f"{arm} diverged with each of {', '.join(scores)}: set --tune to others, and "
                "another --out"
            )
    return replace(
        plan,
        tune=config.tune,
        tune_amount=config.tune_amount,
        tune_on=config.tune_on,
        tuning=tuning,
    )


def keep_score(trial: Trial, score: float | None) -> None:
    """Write the score of a run, which is over then; 0 for one that has diverged."""
    content = {"score": score if score is not None and math.isfinite(score) else 0.0}
    replace_text(trial.cell.place / MEASURES, json.dumps(content) + "\n")


def _score(config: AblateConfig, trial: Trial) -> None:
    """Keep the score of a finished run and drop the rest but its log."""
    if not trial.cell.measured:
        lines = [line for line in log_lines(trial.cell.run / METRICS) if "evaluation" in line]
        keep_score(trial, lines[-1]["evaluation"][config.tune_on])
    trial.cell.prune("records")


def _require_same_budget(config: AblateConfig, arm: str, choice: str) -> None:
    plain, tried = arm_settings(config, arm), arm_settings(config, f"{arm}+{choice}")
    for part, names in _COSTLY.items():
        for name in names:
            if getattr(getattr(plain, part), name) != getattr(getattr(tried, part), name):
                raise ValueError(f"tune: {name} decides what a run costs; make an arm of it")


def _require_measured(config: AblateConfig, arm: str) -> None:
    ranking = trained_ranking(arm_settings(config, arm).objective)
    if config.tune_on == "retrieval/matching" and ranking == "contrastive":
        raise ValueError(
            f"{arm} does not train matching; tune_on must be retrieval/mean_recall or "
            "masked_words/with_image"
        )
