"""What a session of a run does: take a step, evaluate, save, release.

Every random number of a step is derived from the seed, the step and the position of the
micro-batch in the global batch. A resumed run therefore continues bit for bit, and two processes
compute what one process computes with two micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from torch import nn

from vilta.config import OptimizationConfig, RunConfig
from vilta.seeds import derived
from vilta.training import checkpoint, folder
from vilta.training.checkpoint import RunState
from vilta.training.gradients import StepGradient
from vilta.training.memory import out_of_memory_explained
from vilta.training.optimization import (
    build_optimizer,
    build_schedule,
    clip_gradient,
    step_unless,
)
from vilta.training.phases import Pace, Phase
from vilta.training.precision import NAMES, autocast, choose_dtype, describe_device
from vilta.training.processes import average_statistics, on_main, running_statistics
from vilta.training.reports import StepReport, comes_late, joint_flags
from vilta.training.sharding import give_weights, sharded_copy
from vilta.training.skipping import Diverged, Skips
from vilta.training.stopping import Interrupted, StopRequest
from vilta.training.tracking import Tracker
from vilta.types import TrainableTask


@dataclass(kw_only=True)
class Session:
    """What is trained, and its position, from the start or resume of a run to its end."""

    task: TrainableTask
    accelerator: Accelerator
    tracker: Tracker
    state: RunState
    optimization: OptimizationConfig
    run: RunConfig
    evaluate: Callable[[], dict[str, float]] | None
    pictures: Callable[[], dict[str, np.ndarray]] | None
    samples_per_epoch: int
    phases: Sequence[Phase] = ()
    source: Path | None = None
    """Checkpoint that ``state`` was read from."""

    def __post_init__(self) -> None:
        """Move the task to its device, build optimizer and schedule, and go on from ``source``."""
        device = self.accelerator.device
        self.module = cast(nn.Module, self.task)
        if self.source is not None:
            checkpoint.load_weights(self.source, self.module)
        self.module.train()
        chosen = choose_dtype(
            self.optimization.precision, device, self.module, self.state.precision
        )
        self.dtype, self.precision = broadcast_object_list([*chosen])  # one for all processes
        self.state.precision = NAMES[self.dtype]
        if self.optimization.compile:
            self.module.compile()
        self.sharded = self.optimization.shard and self.accelerator.num_processes > 1
        # What takes the steps: the task, or a copy in parts. What is evaluated and saved is whole.
        self.learner = sharded_copy(self.module.to(device)) if self.sharded else self.module
        self.gradient = StepGradient(
            self.learner, self.accelerator, self.dtype, self.optimization.accumulate
        )
        self.optimizer = build_optimizer(cast(TrainableTask, self.learner), self.optimization)
        self.schedule = build_schedule(self.optimizer, self.optimization)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.statistics = running_statistics(self.learner)
        self.saved: tuple[int, int] | None = None
        if self.source is not None:
            checkpoint.load_optimizer(self.source, self.optimizer, self.schedule)
            self.saved = (self.state.step, self.state.evaluated)
            if not self.accelerator.is_main_process:
                self.state.window = {}  # it was pooled: the first process has it all
        self.logged = (self.state.step, self.state.seconds)
        self.pace = Pace(self.phases, self.optimization.steps)
        self.saved_at, self.save_due = time.monotonic(), False
        self.skips = Skips()
        self.on_its_way: StepReport | None = None

    def introduce(self) -> None:
        """Print what is about to be trained, on what device."""
        processes, device = self.accelerator.num_processes, self.accelerator.device
        count = sum(p.numel() for p in self.trained)
        self.tracker.say(
            f"training {count:,} parameters on {processes} x {device.type} in {self.precision}, "
            f"{self.state.global_batch} samples a step, from step {self.state.step} to "
            f"{self.optimization.steps}"
        )
        machine = f"{processes} x {describe_device(device)}"
        self.tracker.machine(self.state.step, machine, self.precision)
        self.tracker.epochs(self.samples_per_epoch, self.state.global_batch)

    def step(self, loader: Iterator[Any], stop: StopRequest) -> bool:
        """Take one optimizer step; return whether any process was asked to stop."""
        began = time.perf_counter()
        if name := self.pace.begins(self.state.step):
            self.tracker.say(f"step {self.state.step + 1}: {name} begins, and the loss counts it")
        batches: list[Any] = []
        accumulate = self.optimization.accumulate
        for _ in range(accumulate):
            try:
                # Until it has its batches a step has changed nothing, and no process waits for it.
                alone = self.accelerator.num_processes == 1
                with stop.breaks() if alone else nullcontext():
                    batch = next(loader, None)
            except Interrupted:
                return True
            if batch is None:
                raise ValueError(
                    f"the training data gave no batch for step {self.state.step + 1}: fewer "
                    f"samples than the {self.state.global_batch} of one step?"
                )
            batches.append(batch)
        names = [list(batch.names) for batch in batches]
        first = self.accelerator.process_index * accumulate
        seeds = [
            derived(self.run.seed, self.state.step, first + index) for index in range(accumulate)
        ]
        before_step = [value.clone() for value in self.statistics]
        with out_of_memory_explained(self.state.step + 1, self.optimization):
            reports = self.gradient.add(batches, seeds)
        norm = clip_gradient(self.trained, self.optimization.clip)
        losses = [report["loss"] for report in reports]
        flags = joint_flags(
            self.accelerator, norm, losses, asked=stop.asked, due=self._save_is_due()
        )
        # Each step, so that it does not matter when a run is evaluated, saved or resumed.
        average_statistics(self.accelerator, self.statistics)
        for now, old in zip(self.statistics, before_step, strict=True):
            now.copy_(old.where(flags[0] > 0, now))  # those of a broken step may not be finite
        rate = self.schedule.lr_lambdas[0](self.state.step) * self.optimization.lr
        with out_of_memory_explained(self.state.step + 1, self.optimization):
            step_unless(self.optimizer, flags[0])  # the first one makes the moments
        cast(TrainableTask, self.learner).after_step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.state.step += 1
        reports = [{**report, "grad_norm": norm} for report in reports]
        report = StepReport(self.state.step, rate, names, flags, reports)
        if comes_late(self.accelerator.device):
            before, self.on_its_way = self.on_its_way, report
        else:
            before = report
        if before is not None:
            before.wait()
        took = time.perf_counter() - began
        self.state.seconds += took
        self.pace.add(self.state.step, took)
        stopping = self._settle(before)
        return stopping or (stop.asked and self.accelerator.num_processes == 1)

    def _save_is_due(self) -> bool:
        """Whether this process finds that a checkpoint is due by the clock; the first one does."""
        minutes = self.run.save_minutes
        first = self.accelerator.is_main_process
        return first and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def _settle(self, report: StepReport | None) -> bool:
        """Read and log what a step reported; return whether any process was asked to stop."""
        if report is None:
            return False
        outcome = report.read()
        self.save_due = outcome.saving
        if outcome.broken:
            self.state.skipped += 1
            self.tracker.skipped(report.step, self.skips.add(report.names, outcome))
            self.skips.give_up(report.step)
        else:
            self.skips.end()
            self._remember(outcome.reports)
        self._log(report)
        return outcome.stopping

    def catch_up(self) -> None:
        """Settle the step whose report is on its way: the state is whole then."""
        report, self.on_its_way = self.on_its_way, None
        self._settle(report)

    def _remember(self, reports: list[dict[str, float]]) -> None:
        """Keep a step's numbers for the next log line; NaN: there was nothing to count."""
        for report in reports:
            for name, value in report.items():
                if not math.isnan(value):
                    self.state.window.setdefault(name, []).append(value)

    def _pool_window(self) -> dict[str, list[float]]:
        """Gather what all processes remember in the first one, and return it."""
        pooled: dict[str, list[float]] = {}
        for window in gather_object([self.state.window]):
            for name, values in window.items():
                pooled.setdefault(name, []).extend(values)
        self.state.window = pooled if self.accelerator.is_main_process else {}
        return pooled

    def _log(self, report: StepReport) -> None:
        """Move the live line; write the means since the last log line when one is due."""
        state, step, every = self.state, report.step, max(self.run.log_every, 1)
        if step % every == 0 or step == self.optimization.steps:
            steps, seconds = step - self.logged[0], state.seconds - self.logged[1]
            # fsum is exact, so a mean does not depend on where a run was stopped and resumed.
            means = {n: math.fsum(v) / len(v) for n, v in self._pool_window().items()}
            pace = {
                "grad_norm": means.pop("grad_norm", math.nan),
                "lr": report.rate,
                "samples_per_s": steps * state.global_batch / seconds,
                "seconds": state.seconds,
                "skipped_steps": float(state.skipped),
            }
            if self.samples_per_epoch:
                pace["epoch"] = step * state.global_batch / self.samples_per_epoch
            self.tracker.log(step, means, pace)
            state.window = {}
            self.logged = (step, state.seconds)
        self.tracker.progress(step, self.pace.left(step))

    def evaluate_if_due(self, stop: StopRequest) -> bool:
        """Evaluate every ``evaluate_every`` steps and at the end; a new best one is saved.

        Returns whether the run was asked to stop in the middle: the evaluation comes again then.
        """
        state, every = self.state, self.run.evaluate_every
        due = (every and state.step and state.step % every == 0) or (
            state.step >= self.optimization.steps
        )
        if self.evaluate is None or not due or state.evaluated == state.step:
            return False
        self.catch_up()
        self._collect()
        metrics: dict[str, float] = {}
        shown: dict[str, np.ndarray] = {}
        self.module.eval()
        torch.manual_seed(derived(self.run.seed, "evaluation"))
        # Processes that share an evaluation would wait for one that breaks it off.
        breaks = stop.breaks() if self.accelerator.num_processes == 1 else nullcontext()
        try:
            with torch.no_grad(), autocast(self.accelerator.device, self.dtype), breaks:
                metrics = self.evaluate()
                if self.pictures and self.accelerator.is_main_process:
                    shown = self.pictures()
        except Interrupted:
            metrics = {}
        self.module.train()
        if not all(gather_object([bool(metrics)])):
            return True
        metrics = broadcast_object_list([metrics])[0]
        self.tracker.evaluation(state.step, metrics, shown)
        self._compare(metrics)
        return False

    def _compare(self, metrics: dict[str, float]) -> None:
        """Record an evaluation, and save the step if it is the best one."""
        state, metric = self.state, self.run.selection_metric
        if metric not in metrics:
            self.save()
            raise ValueError(
                f"--run.selection-metric {metric} is not a metric of the evaluation; choose "
                f"one of {', '.join(metrics)} and go on with --run.resume"
            )
        state.evaluated, value = state.step, metrics[metric]
        if self.run.release == "last":
            return
        if not math.isnan(value) and (state.best is None or value > state.best["value"]):
            state.stale = 0
            state.best = {"step": state.step, "metric": metric, "value": value, "metrics": metrics}
            self.save()
        else:
            state.stale += 1

    def _collect(self) -> None:
        """Give the task the weights of the copy that learns in its place."""
        if self.sharded:
            give_weights(self.learner, self.module)

    def save(self) -> None:
        """Write a checkpoint of this step, if there is none yet."""
        self.catch_up()
        if self.saved == (self.state.step, self.state.evaluated):
            return
        self._pool_window()
        self._collect()
        moments: dict[str, Any] = {}
        if self.sharded or self.accelerator.is_main_process:  # parts are gathered by all
            moments = checkpoint.whole_state(self.optimizer, self.schedule)
        on_main(
            self.accelerator,
            lambda: checkpoint.save_checkpoint(
                Path(self.run.out), self.module, moments, self.state, keep=self.run.keep
            ),
        )
        self.saved = (self.state.step, self.state.evaluated)
        # What asked for it is done, also where the next report has still to come.
        self.saved_at, self.save_due = time.monotonic(), False

    def release(self) -> None:
        """Write ``model/`` of a saved run: the weights of its best evaluation, if there was one."""
        out, best = Path(self.run.out), self.state.best
        chosen = f"weights of step {self.state.step}"
        if best is not None:
            chosen = f"weights of step {best['step']}, {best['metric']} {best['value']:.4g}"
            if best["step"] != self.state.step:
                checkpoint.load_weights(checkpoint.best_checkpoint(out, self.state), self.module)
        self.module.eval()
        self._refuse_broken()
        on_main(self.accelerator, lambda: self._write_model(out / folder.MODEL))
        self.tracker.say(f"wrote {out / folder.MODEL} ({chosen}); metrics in {out}")

    def _refuse_broken(self) -> None:
        """Raise ``Diverged`` if a step has broken the weights, which finite losses may do."""
        weights = self.module.state_dict().items()
        broken = [name for name, value in weights if not value.isfinite().all()]
        if broken:
            raise Diverged(
                f"nothing was learnt: {len(broken)} of the model's tensors hold numbers that are "
                f"not finite, first {broken[0]}; no model was released. Lower "
                "--optimization.lr and start again"
            )

    def _write_model(self, target: Path) -> None:
        try:
            with folder.replaced_folder(target) as temporary:
                self.task.save_pretrained(str(temporary))
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"cannot write {target}: {' '.join(str(error).split())}; the checkpoints are "
                "whole, make room and go on with --run.resume"
            ) from error
