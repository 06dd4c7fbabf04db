"""How long a step of Muon takes, torch's and vilta's, over the matrices of one model.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.muon

The model is that of `training_step` at the size `tiny`, ViLTA's objectives, cross-attention. The
two take turns on the same gradients, after one step each that is not counted; `pass` is the forward
and backward pass of a batch in float32, for comparison. Median of the rounds, by the clock of
`training_step`. Results go to `benchmarks/results/muon.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.speed.step_arms import SIZES, STEPS, make_batch
from benchmarks.speed.training_step import clock
from torch import nn

from vilta.config import OptimizationConfig
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.muon import Muon
from vilta.training.optimization import Joined, build_optimizer
from vilta.training.precision import describe_device, keep_for_next_step

RESULTS = Path(__file__).parents[1] / "results" / "muon.json"


def matrices_of(task: nn.Module) -> list[nn.Parameter]:
    """Return the weights that a run with ``optimizer: muon`` hands to it."""
    assert isinstance(task, PretrainingTask)
    optimizer = build_optimizer(task, OptimizationConfig(optimizer="muon"))
    assert isinstance(optimizer, Joined)
    groups = [g for part in optimizer.parts if isinstance(part, Muon) for g in part.param_groups]
    return [matrix for group in groups for matrix in group["params"]]


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_for_next_step()
    torch.manual_seed(0)
    task, losses = STEPS["vilta `vilta`, cross-attention"](SIZES["tiny"])
    task.to(device).train()
    batch = make_batch(SIZES["tiny"], 0).to(device)
    matrices = matrices_of(task)
    losses(batch).backward()
    torchs = torch.optim.Muon(matrices, lr=1e-5, adjust_lr_fn="match_rms_adamw")
    works: dict[str, Callable[[], object]] = {
        "torch": torchs.step,
        "vilta": Muon([{"params": matrices, "lr": 1e-5}]).step,
        "pass": lambda: losses(batch).backward(),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for name, work in [*works.items()] * (rounds + 1):
        began = clock(device)
        work()
        taken[name].append(1e3 * (clock(device) - began))
    middle = {name: statistics.median(times[1:]) for name, times in taken.items()}
    result = {
        "device": describe_device(device),
        "torch": torch.__version__,
        "matrices": len(matrices),
        "weights_M": round(sum(m.numel() for m in matrices) / 1e6, 2),
        "ms": {name: round(time, 1) for name, time in middle.items()},
        "ms_of_rounds": {n: [round(t, 1) for t in times[1:]] for n, times in taken.items()},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["ms"]))
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
