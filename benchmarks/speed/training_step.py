"""How fast one pre-training step is: vilta's objectives, METER's flow, and transformers' models.

    python -m benchmarks.speed.training_step --sizes tiny --rounds 3

The rows of the table take turns for several rounds, so that what else the machine does slows all
of them. On a CPU each measurement runs in a process of its own, so that its peak memory is its
own; with one thread the clock is the process's own time, which other processes do not touch;
otherwise it is the wall's. On a GPU one process holds all models, and the steps of a round are
queued without a pause between them, as in training. The peak of memory is what a model, its
optimizer and its steps add to the process: neither the interpreter nor libraries, nor other
models. Utilisation (MFU) is the step's FLOPs, counted once, over those of large matrix products of
the same format measured by the same process. Writes benchmarks/results/training_step.json;
`python -m benchmarks.tasks` puts it in docs/results.md. torch does not count the FLOPs of its fused
attention on a CPU, which float32 takes: 2 to 3 % fewer than bf16's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch
from benchmarks.speed.step_arms import SIZES, STEPS, Losses, Size, make_batch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vilta.config import OptimizationConfig
from vilta.training.optimization import clip_gradient
from vilta.training.precision import autocast, describe_device, keep_for_next_step
from vilta.types import Batch

OUT = Path(__file__).parents[1] / "results" / "training_step.json"
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""Formats of the products; tf32 is what `precision: float32` means on a GPU, and only there."""
COMPILED = ("vilta `vilta`, co-attention", "vilta `vilta`, cross-attention")
BATCHES = 4


def clock(device: torch.device) -> float:
    """Return seconds; see the module's docstring."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@lru_cache
def ceiling(device: torch.device, precision: str) -> float:
    """Return the best FLOP/s of a square matrix product."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device, dtype=DTYPES[precision])
    seconds = []
    for _ in range(12):
        began = clock(device)
        a @ b
        seconds.append(clock(device) - began)
    return 2 * side**3 / min(seconds)


def take_step(
    losses: Losses, batch: Batch, dtype: torch.dtype, optimizer: torch.optim.Optimizer, model: Any
) -> None:
    """Forward, backward, clipping, AdamW, and what a task does after."""
    with autocast(batch.input_ids.device, dtype):
        loss = losses(batch)
    loss.backward()
    clip_gradient([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    if hasattr(model, "after_step"):
        model.after_step()
    optimizer.zero_grad()


class Case:
    """A model with its optimizer and batches, on the device."""

    def __init__(
        self, row: str, size: Size, compiled: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        """``dtype`` is that of the pass that counts FLOPs, which a CPU's peak includes."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.before = allocated(self.device)
        torch.manual_seed(0)
        self.model, self.losses = STEPS[row](size)
        self.model.to(self.device).train()
        self.batches = [make_batch(size, seed).to(self.device) for seed in range(BATCHES)]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=OptimizationConfig().lr, fused=True)
        with FlopCounterMode(display=False) as counter:
            with autocast(self.device, dtype):
                loss = self.losses(self.batches[0])
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.flops, self.held = counter.get_total_flops(), allocated(self.device) - self.before
        self.compiled = compiled
        if compiled:
            self.model.compile()

    def measure(self, precision: str, steps: int) -> dict[str, Any]:
        """Warm up, then take ``steps``."""
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        began = time.perf_counter()
        # All of them where a batch of another length costs: it is compiled, or a GPU loads kernels.
        costly = self.compiled or self.device.type == "cuda"
        self._steps(precision, BATCHES if costly else 2)
        warming = clock(self.device) and time.perf_counter() - began
        others = self.before
        if self.device.type == "cuda":
            others = allocated(self.device) - self.held  # models came after this one, too
            torch.cuda.reset_peak_memory_stats()
            began = clock(self.device)
            self._steps(precision, steps)
            seconds = [(clock(self.device) - began) / steps]
        else:
            seconds = []
            for i in range(steps):
                began = clock(self.device)
                self._steps(precision, 1, i)
                seconds.append(clock(self.device) - began)
        return {
            "seconds": seconds,
            "flops": self.flops,
            "ceiling": ceiling(self.device, precision),
            "peak_GiB": (peak_memory(self.device) - others) / 2**30,
            "parameters": parameters(self.model),
            "warm_up_s": warming,
        }

    def _steps(self, precision: str, count: int, first: int = 0) -> None:
        for i in range(first, first + count):
            batch = self.batches[i % BATCHES]
            take_step(self.losses, batch, DTYPES[precision], self.optimizer, self.model)


def measured_alone(case: dict[str, Any], steps: int) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed.training_step", "--steps", str(steps)]
    command += ["--case", json.dumps(case)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


@cache
def held_case(row: str, size: str, compiled: bool, batch: int) -> Case:
    """Return a case that stays on the GPU between its rounds."""
    return Case(row, sized(size, batch), compiled)


def sized(name: str, batch: int) -> Size:
    """Return a size, with another number of pairs a step unless ``batch`` is 0."""
    return replace(SIZES[name], batch=batch or SIZES[name].batch)


def parameters(model: nn.Module) -> int:
    """Count the weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def allocated(device: torch.device) -> int:
    """Return the bytes that tensors hold on a GPU, or this process in a CPU's memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held since the last reset, on a CPU since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def summary(name: dict[str, Any], rounds: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Join the rounds of a row: medians, and how far its rounds lie apart."""
    rates = [batch / statistics.median(r["seconds"]) for r in rounds]
    per_second = statistics.median(rates)
    flops = rounds[0]["flops"] / batch
    best = max(r["ceiling"] for r in rounds)
    return name | {
        "batch": batch,
        "pairs_per_s": round(per_second, 4),
        "slowest_round": round(min(rates), 4),
        "fastest_round": round(max(rates), 4),
        "GFLOP_per_pair": round(flops / 1e9, 2),
        "ceiling_GFLOP_per_s": round(best / 1e9),
        "MFU": round(flops * per_second / best, 3),
        "peak_GiB": round(max(r["peak_GiB"] for r in rounds), 2),
        "parameters_M": round(rounds[0]["parameters"] / 1e6, 1),
        "warm_up_s": round(min(r["warm_up_s"] for r in rounds), 1),
    }


def batch_of(row: dict[str, Any]) -> int:
    """Return the pairs of a step of a row; results from before there was a choice do not say."""
    return row.get("batch") or SIZES[row["size"]].batch


def _rounds(count: int) -> str:
    """Say what the figures are of; a single round has no median and no spread."""
    return f"Median of {count} rounds in turns" if count > 1 else "One round of each row, no spread"


def table(result: dict[str, Any]) -> list[str]:
    """Return the measurements as a table in Markdown, the ratio to BridgeTower in float32."""
    sizes = " and ".join(dict.fromkeys(row["size"] for row in result["rows"]))
    if any(row["compiled"] for row in result["rows"]):
        sizes += ", compiled"
    machine, _, remark = result["machine"].partition("; ")
    lines = [
        f"## How fast a pre-training step is: {sizes}, {machine}",
        "",
        (f"Measured {remark}. " if remark else "")
        + f"{_rounds(result['rounds'])}; {result['clock']}.",
        f"The peak of memory is {result['peak']}.",
        "Made by `python -m benchmarks.speed.training_step`, whose sizes stand in",
        "`benchmarks/speed/step_arms.py`; BridgeTower, ViLT, METER's flow and `meter` train masked",
        "words and matching, `albef` contrast and a momentum model too, `vilta` the whole method.",
        "",
    ]
    for size, batch in dict.fromkeys((row["size"], batch_of(row)) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["size"], batch_of(row)) == (size, batch)]
        shipped = (r for r in rows if r["row"].startswith("Bridge") and r["precision"] != "bf16")
        bar = [r["pairs_per_s"] for r in shipped]
        lines += [
            f"### {size}, {batch} pairs a step",
            "",
            "| step | format | pairs/s (range) | x BridgeTower | GFLOP a pair | MFU | peak GiB |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            spread = f"{row['slowest_round']:.3g} to {row['fastest_round']:.3g}"
            times = f"{row['pairs_per_s'] / bar[0]:.2f}" if bar else ""
            form = row["precision"] + (", compiled" if row["compiled"] else "")
            lines.append(
                f"| {row['row']} | {form} | {row['pairs_per_s']:.3g} ({spread}) | {times} | "
                f"{row['GFLOP_per_pair']:.3g} | {row['MFU']:.2f} | {row['peak_GiB']:.2f} |"
            )
        lines.append("")
    return lines


def cases(
    sizes: list[str], precisions: list[str], only: list[str], compiled: bool, batches: list[int]
) -> list[dict[str, Any]]:
    """Return the rows to measure, BridgeTower in float32, as it ships, first."""
    found = [
        {"row": row, "size": size, "precision": precision, "compiled": False, "batch": batch}
        for size in sizes
        for batch in batches
        for precision in precisions
        for row in STEPS
        if any(part in row for part in only)
    ]
    if compiled:
        found += [case | {"compiled": True} for case in found if case["row"] in COMPILED]
    return found


def main() -> None:
    """Measure all rows in turns, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["float32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps of a row in a round")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[0], help="pairs a step; 0: the size's own"
    )
    parser.add_argument(
        "--limit", type=float, default=math.inf, help="begin no measurement after so many seconds"
    )
    parser.add_argument("--only", nargs="+", default=[""], help="rows with this in their name")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile")
    parser.add_argument("--remark", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_for_next_step()
    if given.case:
        case = json.loads(given.case)
        size = sized(case["size"], case["batch"])
        one = Case(case["row"], size, case["compiled"], DTYPES[case["precision"]])
        print(json.dumps(one.measure(case["precision"], given.steps)))
        return
    if device.type == "cpu" and "tf32" in given.precisions:
        parser.error("tf32 is a format of GPUs")
    rows = cases(given.sizes, given.precisions, given.only, given.compiled, given.batch)
    rounds: list[list[dict[str, Any]]] = [[] for _ in rows]
    began = time.monotonic()
    for _ in range(given.rounds):
        for row, found in zip(rows, rounds, strict=True):
            if time.monotonic() - began > given.limit:
                continue
            found.append(measured(row, given.steps, device))
            print(row, f"{1e3 * statistics.median(found[-1]['seconds']):.0f} ms a step", flush=True)
            result = joined(rows, rounds, device, given.remark)
            given.out.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(table(result)))


def measured(row: dict[str, Any], steps: int, device: torch.device) -> dict[str, Any]:
    """Measure a row once."""
    if device.type == "cpu":
        return measured_alone(row, steps)
    held = held_case(row["row"], row["size"], row["compiled"], row["batch"])
    return held.measure(row["precision"], steps)


def joined(
    rows: list[dict[str, Any]],
    rounds: list[list[dict[str, Any]]],
    device: torch.device,
    remark: str,
) -> dict[str, Any]:
    """Return what has been measured so far, and where."""
    own = device.type == "cpu" and torch.get_num_threads() == 1
    return {
        "machine": "; ".join([describe_device(device), *([remark] if remark else [])]),
        "cores": os.cpu_count(),
        "clock": "the clock is the process's own time" if own else "the clock is the wall's",
        "peak": "the model's, its optimizer's and its step's",
        "torch": torch.__version__,
        "rounds": min(len(found) for found in rounds if found),
        "rows": [
            summary(row, found, sized(row["size"], row["batch"]).batch)
            for row, found in zip(rows, rounds, strict=True)
            if found
        ],
    }


if __name__ == "__main__":
    main()
