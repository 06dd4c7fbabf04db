"""The runs of a comparison: arms x seeds, where each stands, and what was fixed before the first.

OUT/ablate.yaml                 the settings, whole
OUT/plan.json                   steps, pace and FLOPs of each arm, the number format, what was tuned
OUT/items.json                  the texts of the fine-grained items
OUT/vilta/seed-0/run            an ordinary run of `vilta pretrain`
OUT/vilta/seed-0/start.json     hashes of the initial weights and of the first batches
OUT/vilta/seed-0/measures.json  what was measured at the end: the run is finished then
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vilta.ablation.arms import NOISE, arm_settings
from vilta.config import PretrainConfig, RunConfig
from vilta.config.ablate import AblateConfig, folder_name
from vilta.config.finetune import FinetuneConfig
from vilta.config.shipped import find_shipped
from vilta.config.yaml_file import to_dict
from vilta.seeds import stable_hash
from vilta.tasks.registry import default_config
from vilta.training.folder import CHECKPOINTS, EVENTS, METRICS, MODEL, log_lines, replace_text

SETTINGS, PLAN, ITEMS = "ablate.yaml", "plan.json", "items.json"
START, MEASURES, TASKS, LOG = "start.json", "measures.json", "tasks", "log.txt"
SELECTION = "retrieval/mean_recall"


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """What a run of an arm does, and what its steps cost; phases as in ``phases_of``."""

    steps: int
    batch: int
    """Samples of a step."""
    starts: tuple[int, ...]
    """First step of each phase."""
    seconds: tuple[float, ...]
    """Of a step in each phase, alone on the machine of the probe, without reading the data."""
    flops: tuple[float, ...]
    """Of a step in each phase: matrix products and attention, forward and backward."""
    settings: str = ""
    """Hash of the settings it was planned with."""

    def cost(self, per_step: tuple[float, ...], step: float | int) -> float:
        """Return what the first ``step`` steps cost."""
        ends = [*self.starts[1:], float("inf")]
        return sum(
            max(0.0, min(step, end) - start) * each
            for start, end, each in zip(self.starts, ends, per_step, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is fixed before the first run, so that going on elsewhere changes nothing."""

    budget: str
    amount: float
    evaluations: int
    precision: str
    """``bf16`` or ``float32``, one for all runs."""
    device: str
    """Where the pace was measured."""
    arms: dict[str, ArmPlan]
    images: int | None = None
    edits: str | None = None
    edit_items: int | None = None
    tune: tuple[str, ...] | None = None
    tune_amount: float | None = None
    tune_on: str | None = None
    tuning: dict[str, dict[str, float]] = field(default_factory=dict)
    """By arm: each choice of settings that was tried, and its score."""
    tasks: dict[str, str] = field(default_factory=dict)
    """Hash of the settings of each fine-tuning config, by its name; older plans have none."""

    def choice(self, arm: str) -> str:
        """Return the best settings that were tried for an arm, joined by ``+``; empty if none."""
        tried = self.tuning.get(arm, {})
        return max(tried, key=lambda choice: tried[choice], default="")


@dataclass(frozen=True)
class Cell:
    """One run: an arm from a seed."""

    folder: Path
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Return, for example, ``vilta/seed-0``."""
        return f"{self.arm}/seed-{self.seed}"

    @property
    def place(self) -> Path:
        """Return the folder of the cell."""
        return self.folder / folder_name(self.arm) / f"seed-{self.seed}"

    @property
    def run(self) -> Path:
        """Return the folder of its training run."""
        return self.place / "run"

    @property
    def trained(self) -> bool:
        """Whether its training is over."""
        return (self.run / MODEL / "config.json").is_file() or self.measured

    @property
    def measured(self) -> bool:
        """Whether its final model was measured."""
        return (self.place / MEASURES).is_file()

    def tuned(self, task: str) -> Path:
        """Return the file of what a task's fine-tuning gave."""
        return self.place / TASKS / f"{folder_name(task)}.json"

    def steps_taken(self) -> int:
        """Return how far the log says that training has come."""
        return max((line["step"] for line in log_lines(self.run / METRICS)), default=0)

    def prune(self, keep: str) -> None:
        """Delete what is not to be kept of a finished run."""
        if keep == "all":
            return
        for run in [self.run, *(self.place / TASKS).glob("*/")]:
            for name in [CHECKPOINTS, *([MODEL, EVENTS] if keep == "records" else [])]:
                shutil.rmtree(run / name, ignore_errors=True)


def noisy(arm: str, share: float) -> str:
    """Return the arm that is trained on moved captions too."""
    return f"{arm}+{NOISE}={share:g}"


def all_arms(config: AblateConfig) -> list[str]:
    """Return the arms and, with ``caption_noise``, their second versions."""
    noise = config.caption_noise
    return [*config.arms, *(noisy(arm, noise) for arm in config.arms if noise > 0)]


def plain_arm(config: AblateConfig, arm: str) -> str:
    """Return the arm that ``arm`` is, or is the second version of."""
    return next((a for a in config.arms if arm in (a, noisy(a, config.caption_noise))), arm)


def seeds_of(config: AblateConfig, arm: str) -> tuple[int, ...]:
    """Return the seeds that an arm is trained from."""
    few = plain_arm(config, arm) in config.controls
    return config.seeds[: config.control_seeds] if few else config.seeds


def another_seed(config: AblateConfig) -> int:
    """Return a seed that nothing was trained or tuned from."""
    after = max(config.seeds) + 1
    return after + (config.tune_seed == after)


def cells(config: AblateConfig) -> list[Cell]:
    """Return all runs, seed by seed: an unfinished comparison has whole pairs."""
    arms, out = all_arms(config), Path(config.out)
    every = ((seed, arm) for seed in config.seeds for arm in arms)
    return [Cell(out, arm, seed) for seed, arm in every if seed in seeds_of(config, arm)]


def find_cell(config: AblateConfig, name: str) -> Cell:
    """Return the run that is called so; ``ValueError`` if there is none."""
    for cell in cells(config):
        if cell.name == name:
            return cell
    raise ValueError(f"no run {name!r}; there are {', '.join(c.name for c in cells(config))}")


def final_settings(config: AblateConfig, plan: Plan, arm: str) -> PretrainConfig:
    """Return the pre-training settings of an arm with what was tuned for it."""
    choice = plan.choice(plain_arm(config, arm))
    return arm_settings(config, f"{arm}+{choice}" if choice else arm)


def run_settings(config: AblateConfig, plan: Plan, cell: Cell) -> PretrainConfig:
    """Return the settings of one run of `vilta pretrain`."""
    steps = plan.arms[cell.arm].steps
    settings = final_settings(config, plan, cell.arm)
    return as_run(settings, plan, cell, steps=steps, every=steps // plan.evaluations)


def as_run(
    settings: PretrainConfig, plan: Plan, cell: Cell, *, steps: int, every: int
) -> PretrainConfig:
    """Return settings of so many steps, evaluated every so many, in the folder of a cell."""
    optimization = replace(
        settings.optimization, steps=steps, precision=as_precision(plan.precision)
    )
    run = replace(
        settings.run,
        out=str(cell.run),
        seed=cell.seed,
        resume="auto",
        evaluate_every=every,
        save_every=0,
        keep=1,
        patience=0,
        selection_metric=SELECTION,
        release="last",
    )
    return replace(settings, epochs=0.0, optimization=optimization, run=run)


def as_precision(name: str) -> Any:
    """Return the precision setting; a plan holds ``bf16`` or ``float32``."""
    if name not in ("bf16", "float32"):
        raise ValueError(f"the plan has no number format {name!r}")
    return name


def steps_for(config: AblateConfig, plan: ArmPlan) -> int:
    """Return the steps that a budget buys: a multiple of the evaluations, at least one each."""
    if config.budget == "samples":
        steps = config.amount / plan.batch
    else:
        steps, spent = 0.0, 0.0
        ends = [*plan.starts[1:], float("inf")]
        costs = plan.seconds if config.budget == "seconds" else plan.flops
        for start, end, each in zip(plan.starts, ends, costs, strict=True):
            steps = start + min(end - start, (config.amount - spent) / each)
            spent = plan.cost(costs, steps)
            if steps < end:
                break
    return config.evaluations * max(1, round(steps / config.evaluations))


def save_plan(config: AblateConfig, plan: Plan) -> None:
    """Write the plan."""
    replace_text(Path(config.out) / PLAN, json.dumps(asdict(plan), indent=2) + "\n")


def load_plan(config: AblateConfig) -> Plan | None:
    """Return the plan of the comparison, or None if it has none yet.

    Raises ``ValueError`` if its budget, or what is measured, is not what the settings ask for.
    """
    path = Path(config.out) / PLAN
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    arms = {name: _arm_plan(arm) for name, arm in content.pop("arms").items()}
    if content.get("tune") is not None:
        content["tune"] = tuple(content["tune"])
    plan = Plan(arms=arms, **content)
    fixed = ("budget", "amount", "evaluations", "images", "edits", "edit_items")
    for name in (*fixed, "tune", "tune_amount", "tune_on"):
        if getattr(plan, name) not in (None, getattr(config, name)):
            raise ValueError(
                f"{config.out} holds a comparison with {name} {getattr(plan, name)}, not "
                f"{getattr(config, name)}; choose another --out"
            )
    return plan


def require_same_arms(config: AblateConfig, plan: Plan) -> None:
    """Raise ``ValueError`` for an arm whose settings are not those that it was planned with.

    Its runs would be compared with others that were trained in another way.
    """
    for arm in all_arms(config):
        known = plan.arms[arm].settings if arm in plan.arms else ""
        if known not in ("", settings_hash(arm_settings(config, arm))):
            raise ValueError(
                f"the settings of {arm} are not those that {config.out} was begun with (the base, "
                "the arm, or the version of vilta has changed); choose another --out"
            )


def require_same_tasks(config: AblateConfig, plan: Plan) -> None:
    """Raise ``ValueError`` for a fine-tuning config that is not what it was when it was planned.

    Its results are kept under its name, and would be compared with those of other settings.
    """
    for task, found in task_hashes(config).items():
        if plan.tasks.get(task, found) != found:
            raise ValueError(
                f"the settings of the task {task} are not those that {config.out} was begun with "
                "(its file, or the version of vilta has changed); give it another name, or choose "
                "another --out"
            )


def task_hashes(config: AblateConfig) -> dict[str, str]:
    """Return a hash of the settings of each fine-tuning config, by its name.

    Raises ``ValueError`` for one that cannot be read, or has no items to compare models on.
    """
    found = {}
    for task in config.tasks:
        settings = default_config(find_shipped(task))
        if not settings.data.val:
            raise ValueError(
                f"task {task}: data.val must name held-out items, on which models are compared"
            )
        run = replace(settings.run, out="", seed=0, resume=False, overwrite=False)
        found[task] = _hash(replace(settings, start="", run=run))
    return found


def settings_hash(settings: PretrainConfig) -> str:
    """Return a hash of all that decides what is trained; where and how it is run is left out."""
    return _hash(replace(settings, run=RunConfig()))


def _hash(settings: PretrainConfig | FinetuneConfig) -> str:
    return f"{stable_hash(json.dumps(to_dict(settings), sort_keys=True)):x}"


def _arm_plan(content: dict[str, Any]) -> ArmPlan:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return ArmPlan(**plain)
