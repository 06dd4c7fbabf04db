"""What a step of an arm costs: FLOPs by counting, seconds by taking a few."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from vilta.ablation.grid import ArmPlan
from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.data.loading import loader_for
from vilta.data.mixture import training_data
from vilta.finished_run import load_teacher
from vilta.model.language_model import load_tokenizer
from vilta.new_model import build_model
from vilta.seeds import derived
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.gradients import StepGradient
from vilta.training.optimization import build_optimizer, clip_gradient
from vilta.training.precision import NAMES, choose_dtype, describe_device
from vilta.training.processes import start_processes
from vilta.types import Batch

WARM_UP, TIMED = 2, 7
"""Steps before the clock, and most steps on it, of which the median counts (our choice)."""
LOOKED_AT = 15
"""Steps whose texts are measured, to take one with texts of mean length (our choice)."""
LONG_ENOUGH = 20.0
"""Seconds after which no further step is timed: long steps vary less (our choice)."""


def build_task(settings: PretrainConfig) -> PretrainingTask:
    """Return the task as `vilta pretrain` builds it, with the initial weights of the seed."""
    torch.manual_seed(derived(settings.run.seed, "model"))
    tokenizer = load_tokenizer(settings.model.text)
    model = build_model(settings)
    return PretrainingTask(model, tokenizer, settings.objective, load_teacher(settings, tokenizer))


def first_batches(task: PretrainingTask, settings: PretrainConfig, count: int) -> list[Batch]:
    """Return the first training batches of a run."""
    data = replace(settings.data, workers=0)
    dataset, _ = training_data(data, settings.run.seed)
    collator = task.collator(data.max_text_tokens, settings.run.seed)
    load = loader_for(dataset, collator, settings.optimization, data, seed=settings.run.seed)
    batches = load(start_step=0, rank=0, world_size=1)
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def typical_step(batches: list[Batch], accumulate: int) -> list[Batch]:
    """Return the micro-batches of the step whose texts are nearest to the mean length.

    With ``data.bucket_steps`` the texts of one batch are of like length, so that the first step
    can cost half as much as the average one, or twice.
    """
    steps = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    lengths = [sum(batch.input_ids.shape[1] for batch in step) for step in steps]
    mean = statistics.fmean(lengths)
    return min(zip(steps, lengths, strict=True), key=lambda step: abs(step[1] - mean))[0]


def probe_arm(settings: PretrainConfig, precision: str) -> tuple[ArmPlan, str, str]:
    """Measure an arm; also returns the number format and the device.

    ``steps`` of the plan is still 0.
    """
    accelerator, steps = start_processes(settings.run), settings.optimization
    task = build_task(settings)
    batches = first_batches(task, settings, LOOKED_AT * steps.accumulate)
    batches = typical_step(batches, steps.accumulate)
    dtype, _ = choose_dtype(steps.precision, accelerator.device, task, precision)
    flops, seconds, starts = [], [], []
    for start, objective in phases(settings.objective):
        task = build_task(replace(settings, objective=objective)).train()
        gradient = StepGradient(task, accelerator, dtype, steps.accumulate)
        count, each = _measure(task, gradient, settings, batches)
        starts.append(start)
        flops.append(count)
        seconds.append(each)
    plan = ArmPlan(
        steps=0,
        batch=steps.samples_at_once * steps.accumulate,
        starts=tuple(starts),
        seconds=tuple(seconds),
        flops=tuple(flops),
    )
    return plan, NAMES[dtype], describe_device(accelerator.device)


def phases(objective: ObjectiveConfig) -> list[tuple[int, ObjectiveConfig]]:
    """Return when the cost of a step changes, and objectives whose first step costs as much."""
    mlm, itm = objective.mlm_start, objective.itm_start
    found = {
        0: replace(objective, mlm_start=int(mlm > 0), itm_start=int(itm > 0)),
        mlm: replace(objective, mlm_start=0, itm_start=int(itm > mlm)),
        itm: replace(objective, mlm_start=0, itm_start=0),
    }
    return sorted(found.items(), key=lambda item: item[0])


def _measure(
    task: PretrainingTask,
    gradient: StepGradient,
    settings: PretrainConfig,
    batches: list[Batch],
) -> tuple[float, float]:
    """Return FLOPs and seconds of one step on ``batches``, the same each time."""
    optimizer = build_optimizer(task, settings.optimization)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    device = task.model.device

    def step() -> None:
        gradient.add(batches, list(range(len(batches))))
        clip_gradient(trained, settings.optimization.clip)
        optimizer.step()
        optimizer.zero_grad()

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    for _ in range(WARM_UP):
        _seconds(step, device)
    times = [_seconds(step, device)]
    while len(times) < TIMED and sum(times) < LONG_ENOUGH:
        times.append(_seconds(step, device))
    return float(counter.get_total_flops()), statistics.median(times)


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
