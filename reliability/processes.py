"""Two and four processes of one run: one is killed, stopped for a while, or slow; nobody may hang.

    python reliability/processes.py --stop 60      # some minutes

A small task (tests/support/toy_training.py) trains under `torchrun` on this machine. When one
process is killed, all must end within a minute, and the message must name it; the run then goes on
and ends with the weights of a run that nobody disturbed. When one is stopped and goes on, or is
slow, the others wait, and the weights are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import write_result

TOY = Path(__file__).parents[1] / "tests/support/toy_training.py"
STEPS, MICRO_BATCHES = 400, 4
ENDED = 60.0
"""Seconds after which nobody may be left when one process was killed."""


def start(out: Path, processes: int, resume: bool = False) -> subprocess.Popen[str]:
    """Start the run; its samples are those of any other number of processes."""
    settings = {"steps": STEPS, "save_every": 50, "evaluate_every": 0, "resume": resume}
    settings |= {"accumulate": MICRO_BATCHES // processes}
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", str(TOY), json.dumps({str(out): settings})]
    with open(f"{out}.log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)


def ranks(agent: int) -> dict[int, int]:
    """Return the process of each rank."""
    found = {}
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    for child in map(int, children):
        content = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        values = dict(line.partition(b"=")[::2] for line in content)
        if b"RANK" in values:
            found[int(values[b"RANK"])] = child
    return found


def begun(out: Path) -> None:
    """Wait for the first checkpoint."""
    while not any((out / "checkpoints").glob("step-*")):
        time.sleep(0.1)


def weights(out: Path, processes: int) -> list[dict[str, torch.Tensor]]:
    """Return what each process ends with."""
    paths = [out / f"rank{rank}.pt" for rank in range(processes)]
    return [torch.load(path, weights_only=True) for path in paths]


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same weights."""
    return all(torch.equal(one[name], two[name]) for name in one)


def disturb(folder: Path, processes: int, kind: str, seconds: float) -> dict[str, object]:
    """Disturb the last process of a run; return what came of it."""
    whole, out = folder / f"whole{processes}", folder / f"{kind}{processes}"
    if not whole.exists():
        assert start(whole, processes).wait() == 0, "the undisturbed run failed"
    agent = start(out, processes)
    begun(out)
    victim, found = ranks(agent.pid)[processes - 1], {"kind": kind, "processes": processes}
    if kind == "killed":
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        assert agent.wait(ENDED) != 0, "a killed process is no success"
        log = Path(f"{out}.log").read_text()
        found["seconds_to_end"] = round(time.monotonic() - began, 1)
        found["named"] = (
            f"rank      : {processes - 1} " in log or f"(local_rank: {processes - 1})" in log
        )
        agent = start(out, processes, resume=True)
    elif kind == "stopped":
        os.kill(victim, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(victim, signal.SIGCONT)
    else:
        for _ in range(20):  # a fifth as fast for some seconds
            os.kill(victim, signal.SIGSTOP)
            time.sleep(0.2)
            os.kill(victim, signal.SIGCONT)
            time.sleep(0.05)
    assert agent.wait(600) == 0, f"{kind}: the run did not end well"
    same = [
        equal(a, b) for a, b in zip(weights(whole, processes), weights(out, processes), strict=True)
    ]
    return found | {"same_weights": all(same)}


def main() -> None:
    """Disturb runs of two and of four processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stop", type=float, default=60.0, help="seconds")
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
    arguments = parser.parse_args()
    began = time.time()
    results = []
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        for processes in arguments.processes:
            for kind in ("killed", "stopped", "slow"):
                results.append(disturb(Path(name), processes, kind, arguments.stop))
                print(results[-1], file=sys.stderr, flush=True)
    bad = [r for r in results if not r["same_weights"] or r.get("named") is False]
    write_result(
        f"processes-{'-'.join(map(str, arguments.processes))}",
        began,
        {"stopped_for": arguments.stop, "each": results},
    )
    if bad:
        raise SystemExit(f"not as it should be: {bad}")


if __name__ == "__main__":
    main()
