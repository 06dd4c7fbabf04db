"""The only training loop: alone on a laptop, or on many devices under ``torchrun``.

It takes any task that answers to ``vilta.types.TrainableTask`` and any source of batches that
have ``to(device)``, ``names`` and a length. ``session.py`` holds what one step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from vilta.config import OptimizationConfig, RunConfig
from vilta.locking import only_writer
from vilta.screen import say_next
from vilta.training import checkpoint, folder
from vilta.training.checkpoint import RunState
from vilta.training.phases import Phase
from vilta.training.processes import on_main, start_processes
from vilta.training.session import Session
from vilta.training.skipping import Diverged
from vilta.training.stopping import StopRequest
from vilta.training.stragglers import name_stragglers
from vilta.training.tracking import Tracker
from vilta.types import TrainableTask


@runtime_checkable
class LoaderFor(Protocol):
    """Yields this process's micro-batches from a step on, ``accumulate`` per step."""

    def __call__(self, *, start_step: int, rank: int, world_size: int) -> Iterable[Any]:
        """Return the batches; the same arguments give the same batches."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a training run ended."""

    step: int
    """Steps taken since the run began, in all its sessions."""
    stopped: bool
    """Ctrl-C or SIGTERM ended it early, so no model was released."""
    skipped: int
    """Steps skipped because they were not finite."""
    seconds: float
    """Time spent in training steps, in all sessions."""
    best: dict[str, Any] | None
    """``step``, ``metric``, ``value`` and ``metrics`` of the evaluation that chose the model."""
    exit_code: int = 0
    """128 + the signal that stopped it, as in shells; 0 otherwise."""

    def released(self, run: RunConfig, then: str) -> dict[str, Any] | None:
        """Return what a finished run has released, ready for JSON; None on other processes.

        ``then`` is the command that follows it, which is the last thing said.
        """
        if not PartialState().is_main_process:
            return None
        say_next(then)
        chosen = self.best or {"step": self.step}
        return {
            "model": str(Path(run.out) / folder.MODEL),
            "steps": self.step,
            "skipped_steps": self.skipped,
            "seconds": self.seconds,
            "released": {
                name: chosen[name] for name in ("step", "metric", "value") if name in chosen
            },
        }

    def exit_if_stopped(self) -> None:
        """End this process with ``exit_code`` if the run was stopped: it has no model yet."""
        if self.stopped:
            raise SystemExit(self.exit_code)


def train(
    task: TrainableTask,
    loader_for: LoaderFor,
    *,
    optimization: OptimizationConfig,
    run: RunConfig,
    config: Any,
    fingerprint: str,
    vocabulary: str,
    resume: str,
    order: str = "",
    evaluate: Callable[[], dict[str, float]] | None = None,
    pictures: Callable[[], dict[str, np.ndarray]] | None = None,
    samples_per_epoch: int = 0,
    bad_samples: Callable[[], int] | None = None,
    phases: Sequence[Phase] = (),
) -> Summary:
    """Train ``task`` (an ``nn.Module``) and release it into ``run.out/model``.

    ``config`` is the dataclass saved as config.yaml; ``fingerprint`` identifies the data and
    ``vocabulary`` for the tokenizer. ``evaluate`` is called by every process, and the result of
    the first one counts; ``pictures`` gives uint8 ``[3, H, W]`` arrays for TensorBoard then.
    ``order`` names the settings on which the order of samples depends, if there are any.
    ``resume`` is the command that goes on with the run.
    ``bad_samples`` returns how many bad samples this process has replaced; ``phases`` say when
    objectives begin, for the time that is left.
    The weights are float32, whatever they were. On return the task holds the released
    ones: the best where there was an evaluation.

    Raises ``ValueError`` in one line for what the user can fix, such as a folder in use, or a
    run in which no step could be taken.
    """
    folder.check_run_folder(run)
    task.float()  # it may have been loaded in half precision
    accelerator = start_processes(run)
    batch = optimization.samples_at_once * optimization.accumulate * accelerator.num_processes
    fresh = RunState(
        fingerprint=fingerprint,
        vocabulary=vocabulary,
        seed=run.seed,
        global_batch=batch,
        order=order,
    )
    accelerator.wait_for_everyone()  # every process has looked at the folder before one writes
    with ExitStack() as stack:
        source, state, notes = on_main(accelerator, lambda: _claimed(stack, run, config, fresh))
        tracker = Tracker(
            Path(run.out),
            start=state.step,
            steps=optimization.steps,
            main=accelerator.is_main_process,
        )
        stop = stack.enter_context(StopRequest())
        stack.enter_context(name_stragglers(accelerator))
        stack.enter_context(tracker)
        for note in notes:
            tracker.say(note)
        session = Session(
            task=task,
            accelerator=accelerator,
            tracker=tracker,
            state=state,
            optimization=optimization,
            run=run,
            evaluate=evaluate,
            pictures=pictures,
            samples_per_epoch=samples_per_epoch,
            phases=phases,
            source=source,
        )
        session.introduce()
        stopped = _take_steps(session, loader_for, stop)
        session.save()
        bad = sum(gather_object([bad_samples()])) if bad_samples is not None else 0
        if bad:
            tracker.say(f"bad samples replaced by others: {bad:,}; warnings above name them")
        if stopped:
            tracker.say(f"stopped at step {state.step}; resume with:\n  {resume}")
        else:
            _require_learning(state)
            session.release()
    return _summary(state, 128 + stop.number if stopped else 0)


def _summary(state: RunState, exit_code: int) -> Summary:
    """Return where a run has come to; it was stopped if its exit code says so."""
    return Summary(
        step=state.step,
        stopped=exit_code != 0,
        skipped=state.skipped,
        seconds=state.seconds,
        best=state.best,
        exit_code=exit_code,
    )


def _claimed(
    stack: ExitStack, run: RunConfig, config: Any, fresh: RunState
) -> tuple[Path | None, RunState, list[str]]:
    """Take possession of the run's folder, for as long as ``stack`` is open.

    Returns the checkpoint to go on from, where the run stands, and what the user should know.
    """
    out = Path(run.out)
    out.mkdir(parents=True, exist_ok=True)
    notes = [stack.enter_context(only_writer(out / folder.LOCK, out))]
    source, state = None, fresh
    if folder.check_run_folder(run):
        source, state, damaged = checkpoint.find_checkpoint(out)
        _continue_as(state, fresh, run)
        notes += [f"{line}; going on from {source.name}" for line in damaged]
        if changed := folder.changed_settings(run, config):
            notes.append(f"other settings than before: {', '.join(changed)}")
        if state.best is not None:
            try:
                checkpoint.best_checkpoint(out, state)
            except ValueError as error:
                notes.append(f"the best weights are lost: {error}; the best of what comes counts")
                state.best, state.stale = None, 0
        checkpoint.set_aside_newer(out, source)
        checkpoint.prune(out, run.keep, state)  # a killed process may have been at it
    elif run.resume:
        notes.append(f"{out} holds no checkpoint yet: starting the run")
    folder.claim_run_folder(run, config)
    return source, state, list(filter(None, notes))


def _take_steps(session: Session, loader_for: LoaderFor, stop: StopRequest) -> bool:
    """Take the steps that are left, evaluate and save when due; return whether stopped."""
    state, run = session.state, session.run
    batches = iter(
        loader_for(
            start_step=state.step,
            rank=session.accelerator.process_index,
            world_size=session.accelerator.num_processes,
        )
    )
    # The run may have been stopped between a step and its evaluation.
    if session.evaluate_if_due(stop):
        return True
    while state.step < session.optimization.steps:
        if run.patience and state.stale >= run.patience:
            session.tracker.say(f"no better {run.selection_metric} in {state.stale} evaluations")
            break
        if session.step(batches, stop) or session.evaluate_if_due(stop):
            return True
        if (run.save_every and state.step % run.save_every == 0) or session.save_due:
            session.save()
    return False


def _require_learning(state: RunState) -> None:
    if state.step and state.skipped == state.step:
        raise Diverged(
            f"nothing was learnt: loss or gradient was not finite in any of {state.step} steps; no "
            "model was released. Check the data and the encoders' preprocessors, or lower "
            "--optimization.lr"
        )


def _continue_as(state: RunState, fresh: RunState, run: RunConfig) -> None:
    """Make a saved position that of the run as it is set up now, after checking that it fits."""
    state.refuse_other(fresh, accept_other_data=run.accept_other_data)
    state.fingerprint, state.order = fresh.fingerprint, fresh.order
    other = state.best is not None and state.best["metric"] != run.selection_metric
    if other or run.release == "last":
        state.best, state.stale = None, 0
