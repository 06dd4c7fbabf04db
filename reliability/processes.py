"""Several processes of one run: one is killed, stopped or slow; then their number changes.

    python reliability/processes.py --stop 60      # some minutes
    python reliability/processes.py --short        # two processes

A small task (tests/support/toy_training.py) trains under torchrun's agent on this machine. When one
process is killed, all must end within a minute, and the message must name it; the run then goes on
and ends with the weights of a run that nobody disturbed. When one is stopped, the others must name
it within 35 seconds; when it goes on, or is slow, the weights are the same. It is always after the
same step that the process is disturbed: it waits there.

The short form stops a process until it is named, and its bounds in seconds are ten times those of
the long one (``results.SLOWER``).

Then a pre-training goes on with 1, 2, 4, 3 and 1 processes, and sees every sample once an epoch.

The agent and its workers are forks of this process, so that nothing is imported again: this is
what torchrun runs (``elastic_launch``), without its command line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kill_and_resume import settings_of
from results import SLOWER, add_short, write_result
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))
import toy_training

from vilta import pretraining_run
from vilta.config import PretrainConfig
from vilta.training.stragglers import BEAT, PATIENCE

STEPS, SAVE_EVERY, MICRO_BATCHES = 120, 20, 4
HELD = 25
"""Step after which the process that is disturbed waits for it; there is a checkpoint before."""
ENDED = 60.0
"""Seconds after which nobody may be left when one process was killed."""
NAMED = PATIENCE + 3 * BEAT
"""Seconds after which a process that was stopped must be named."""
ROUNDING = 1e-6
"""How far the weights may be from the undisturbed run's after a kill, from three processes on.

DDP lays its buckets out anew after its first steps, and a bucket's layout decides in which order
the numbers of more than two processes are added. After a resume the first steps are other ones.
"""
PARTS, STEPS_OF_PART, BATCH = [1, 2, 4, 3, 1], 4, 12
"""Processes that a run goes on with, the steps they take, and the samples of each step."""


def launch(processes: int, log: Path, work: Callable[..., None], *arguments: Any) -> int:
    """Start an agent with its workers; return its process."""
    agent = os.fork()
    if agent:
        return agent
    code = 1
    try:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(to, 1)
        os.dup2(to, 2)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="fork",
        )
        elastic_launch(config, work)(*arguments)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


def ended_well(agent: int, log: Path) -> None:
    """Wait for an agent; end this program with the log if it failed."""
    if ended(agent, 900):
        raise SystemExit(f"a run failed:\n{log.read_text()[-4000:]}")


def ended(agent: int, seconds: float) -> int:
    """Wait for the end of an agent, and return its exit status."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(agent, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    raise SystemExit(f"not ended after {seconds:.0f} s")


class HeldTask(toy_training.ToyTask):
    """The toy; after a step it tells its process, and goes on when ``released`` exists."""

    def __init__(self, waiting: Path, released: Path) -> None:
        super().__init__()
        self.waiting, self.released = waiting, released

    def after_step(self) -> None:
        """Wait, if this is the step."""
        super().after_step()
        if self.steps == HELD:
            named = self.waiting.with_suffix(".new")
            named.write_text(str(os.getpid()))
            named.rename(self.waiting)
            while not self.released.exists():
                time.sleep(0.05)


def train_toy(out: Path, processes: int, resume: bool, held: bool) -> None:
    """Train the toy; its samples are those of any other number of processes."""
    rank = os.environ["RANK"]
    last = held and int(rank) == processes - 1
    task = HeldTask(*signs(out)) if last else toy_training.ToyTask()
    settings = {"steps": STEPS, "save_every": SAVE_EVERY, "evaluate_every": 0, "resume": resume}
    toy_training.train_toy(out, task, accumulate=MICRO_BATCHES // processes, **settings)
    torch.save(task.state_dict(), out / f"rank{rank}.pt")


def signs(out: Path) -> tuple[Path, Path]:
    """Return the files by which a held process tells that it waits, and is told to go on."""
    return out.with_name(f"{out.name}.waiting"), out.with_name(f"{out.name}.released")


def start(out: Path, processes: int, resume: bool = False, held: bool = False) -> int:
    """Start the training of the toy under an agent; the last process may be held after a step."""
    out.mkdir(exist_ok=True)
    log = out.with_name(f"{out.name}.log")
    return launch(processes, log, train_toy, out, processes, resume, held)


def difference(one: Path, two: Path, processes: int) -> float:
    """Return by how much the weights differ at most that the processes of two runs end with."""
    most = 0.0
    for rank in range(processes):
        a, b = (torch.load(out / f"rank{rank}.pt", weights_only=True) for out in (one, two))
        most = max(most, *(float((a[name] - b[name]).abs().max()) for name in a))
    return most


def disturb(folder: Path, processes: int, kind: str, stop: float, slower: float) -> dict[str, Any]:
    """Disturb the last process of a run; return what came of it."""
    whole, out = folder / f"whole{processes}", folder / f"{kind}{processes}"
    if not whole.exists():
        ended_well(start(whole, processes), whole.with_name(f"{whole.name}.log"))
    found: dict[str, Any] = {"kind": kind, "processes": processes}
    log = folder / f"{out.name}.log"
    agent = start(out, processes, held=kind != "undisturbed")
    if kind != "undisturbed":
        victim = held_process(agent, out, log)
        began = time.monotonic()
    if kind == "killed":
        os.kill(victim, signal.SIGKILL)
        assert ended(agent, ENDED * slower) != 0, "a run with a killed process must not succeed"
        found["seconds_to_end"] = round(time.monotonic() - began, 1)
        found["named"] = f"(local_rank: {processes - 1})" in log.read_text()
        agent = start(out, processes, resume=True)
    elif kind == "stopped":
        os.kill(victim, signal.SIGSTOP)
        signs(out)[1].touch()
        line = f"wait for process {processes - 1} (pid {victim} "
        while time.monotonic() - began < (stop if "named" in found else NAMED * slower):
            if "named" not in found and line in log.read_text():
                found["seconds_to_name"] = round(time.monotonic() - began, 1)
                found["named"] = True
            time.sleep(0.2)
        found.setdefault("named", False)
        os.kill(victim, signal.SIGCONT)
    elif kind == "slow":
        signs(out)[1].touch()
        with contextlib.suppress(ProcessLookupError):  # it may end meanwhile
            for _ in range(20):  # a fifth as fast for some seconds
                os.kill(victim, signal.SIGSTOP)
                time.sleep(0.2)
                os.kill(victim, signal.SIGCONT)
                time.sleep(0.05)
    ended_well(agent, log)
    return found | {"largest_difference": difference(whole, out, processes)}


def held_process(agent: int, out: Path, log: Path) -> int:
    """Wait until the process that is to be disturbed waits for it; return its number."""
    waiting = signs(out)[0]
    while not waiting.exists():
        if os.waitpid(agent, os.WNOHANG)[0]:
            raise SystemExit(f"a run failed:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)
    return int(waiting.read_text())


def pretrain_seen(config: PretrainConfig, folder: Path) -> None:
    """Pre-train, and write which samples each step of this process has."""
    loader_for = pretraining_run.loader_for

    def seen_loader_for(*arguments: Any, **names: Any) -> Callable[..., Iterator[Any]]:
        load = loader_for(*arguments, **names)

        def seen(*, start_step: int, rank: int, world_size: int) -> Iterator[Any]:
            with open(folder / f"seen-{start_step}-{rank}.txt", "w") as lines:
                for batch in load(start_step=start_step, rank=rank, world_size=world_size):
                    lines.write(" ".join(batch.names) + "\n")
                    lines.flush()
                    yield batch

        return seen

    pretraining_run.loader_for = seen_loader_for
    pretraining_run.pretrain(config)


def changing_number(folder: Path) -> dict[str, Any]:
    """Go on with other numbers of processes; count how often each epoch has each sample."""
    config = settings_of(folder)
    order: list[str] = []
    for part, processes in enumerate(PARTS):
        steps = STEPS_OF_PART * (part + 1)
        now = replace(
            config,
            data=replace(config.data, val=""),
            optimization=replace(config.optimization, steps=steps, batch_size=BATCH // processes),
            run=replace(config.run, out=str(folder / "run"), evaluate_every=0),
        )
        log = folder / "run.log"
        ended_well(launch(processes, log, pretrain_seen, now, folder), log)
        first = steps - STEPS_OF_PART
        ranks = [
            (folder / f"seen-{first}-{r}.txt").read_text().split("\n") for r in range(processes)
        ]
        order += [n for s in range(STEPS_OF_PART) for rank in ranks for n in rank[s].split()]
    samples = len(set(order))
    epochs = [order[i : i + samples] for i in range(0, len(order), samples)]
    return {
        "processes": PARTS,
        "steps": STEPS_OF_PART * len(PARTS),
        "samples": samples,
        "whole_epochs": sum(len(epoch) == samples for epoch in epochs),
        "seen_other_than_once": sum(max(Counter(epoch).values()) > 1 for epoch in epochs),
    }


def main() -> None:
    """Disturb runs of two and of four processes, then change their number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stop", type=float, default=60.0, help=f"seconds, over {NAMED:.0f}")
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    add_short(parser)
    arguments = parser.parse_args()
    if arguments.stop <= NAMED:
        parser.error(f"--stop must be over {NAMED:.0f}: by then a stopped process must be named")
    stop, numbers, slower = arguments.stop, arguments.processes, 1.0
    if arguments.short:
        stop, numbers, slower = 0.0, [2], SLOWER
    began, bad, results = time.time(), [], []
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        for processes in numbers:
            for kind in ("undisturbed", "killed", "stopped", "slow"):
                each = disturb(Path(name), processes, kind, stop, slower)
                bound = ROUNDING if kind == "killed" and processes > 2 else 0.0
                good = each["largest_difference"] <= bound and each.get("named", True)
                bad += [] if good else [each]
                results.append(each)
                print(each, file=sys.stderr, flush=True)
        changed = changing_number(Path(name))
        bad += [changed] if changed["seen_other_than_once"] else []
    figures = {
        "stopped_for": stop or "until it was named",
        "load": round(os.getloadavg()[1], 1),
        "each": results,
        "changing_number": changed,
    }
    name = "processes" if arguments.short else f"processes-{'-'.join(map(str, numbers))}"
    write_result(name, began, figures, arguments.short)
    if bad:
        raise SystemExit(f"not as it should be: {bad}")


if __name__ == "__main__":
    main()
