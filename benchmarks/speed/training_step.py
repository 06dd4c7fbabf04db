"""How fast one pre-training step is: vilta's objectives, METER's flow, and transformers' models.

    python -m benchmarks.speed.training_step --sizes tiny --rounds 3

Each measurement runs in a process of its own, so that its peak memory is its own; the rows of the
table take turns for several rounds, so that what else the machine does slows all of them. On a
CPU with one thread the clock is the process's own time, which other processes do not touch;
otherwise it is the wall's. Utilisation (MFU) is the step's FLOPs, counted once, over those of large
matrix products of the same format measured by the same process. Writes
benchmarks/results/training_step.json; `python -m benchmarks.tasks` puts it in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.speed.step_arms import SIZES, STEPS, Losses, make_batch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vilta.config import OptimizationConfig
from vilta.training.optimization import clip_gradient
from vilta.training.precision import autocast, describe_device, keep_freed_memory
from vilta.types import Batch

OUT = Path(__file__).parents[1] / "results" / "training_step.json"
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
COMPILED = ("vilta `vilta`, co-attention", "vilta `vilta`, cross-attention")
BATCHES = 4


def clock(device: torch.device) -> float:
    """Return seconds; see the module's docstring."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best FLOP/s of a square matrix product."""
    side = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
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


def measure(row: str, size_name: str, precision: str, steps: int, compiled: bool) -> dict[str, Any]:
    """Measure one row in this process."""
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, dtype = SIZES[size_name], DTYPES[precision]
    torch.manual_seed(0)
    model, losses = STEPS[row](size)
    model.to(device).train()
    batches = [make_batch(size, seed).to(device) for seed in range(BATCHES)]
    trained = [p for p in model.parameters() if p.requires_grad]
    config = OptimizationConfig()
    optimizer = torch.optim.AdamW(trained, lr=config.lr, fused=True)
    with FlopCounterMode(display=False) as counter:
        losses(batches[0]).backward()
    optimizer.zero_grad()
    if compiled:
        model.compile()
    warm, began = BATCHES if compiled else 2, time.perf_counter()
    for i in range(warm):
        take_step(losses, batches[i % BATCHES], dtype, optimizer, model)
    warming = time.perf_counter() - began
    seconds = []
    for i in range(steps):
        began = clock(device)
        take_step(losses, batches[i % BATCHES], dtype, optimizer, model)
        seconds.append(clock(device) - began)
    return {
        "seconds": seconds,
        "flops": counter.get_total_flops(),
        "ceiling": ceiling(device, dtype),
        "peak_GiB": peak_memory(device),
        "parameters": parameters(model),
        "warm_up_s": warming,
    }


def parameters(model: nn.Module) -> int:
    """Count the weights that are trained."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def peak_memory(device: torch.device) -> float:
    """Return the most memory that this process has held, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def summary(name: dict[str, Any], rounds: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Join the rounds of a row: medians, and how far its rounds lie apart."""
    rates = [batch / statistics.median(r["seconds"]) for r in rounds]
    per_second = statistics.median(rates)
    flops = rounds[0]["flops"] / batch
    best = max(r["ceiling"] for r in rounds)
    return name | {
        "pairs_per_s": round(per_second, 2),
        "slowest_round": round(min(rates), 2),
        "fastest_round": round(max(rates), 2),
        "GFLOP_per_pair": round(flops / 1e9, 2),
        "ceiling_GFLOP_per_s": round(best / 1e9),
        "MFU": round(flops * per_second / best, 3),
        "peak_GiB": round(max(r["peak_GiB"] for r in rounds), 2),
        "parameters_M": round(rounds[0]["parameters"] / 1e6, 1),
        "warm_up_s": round(min(r["warm_up_s"] for r in rounds), 1),
    }


def _rounds(count: int) -> str:
    """Say what the figures are of; a single round has no median and no spread."""
    return f"Median of {count} rounds in turns" if count > 1 else "One round of each row, no spread"


def table(result: dict[str, Any]) -> list[str]:
    """Return the measurements as a table in Markdown, the ratio to BridgeTower in float32."""
    lines = [
        "## How fast a pre-training step is",
        "",
        f"{result['machine']}. {_rounds(result['rounds'])}; {result['clock']}.",
        "Made by `python -m benchmarks.speed.training_step`, whose sizes stand in",
        "`benchmarks/speed/step_arms.py`; BridgeTower, ViLT, METER's flow and `meter` train masked",
        "words and matching, `albef` contrast and a momentum model too, `vilta` the whole method.",
        "",
    ]
    for size in dict.fromkeys(row["size"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["size"] == size]
        bar = [r["pairs_per_s"] for r in rows if r["row"].startswith("Bridge")]
        lines += [
            f"### {size}, {SIZES[size].batch} pairs a step",
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
    sizes: list[str], precisions: list[str], only: list[str], compiled: bool
) -> list[dict[str, Any]]:
    """Return the rows to measure, BridgeTower in float32, as it ships, first."""
    found = [
        {"row": row, "size": size, "precision": precision, "compiled": False}
        for size in sizes
        for precision in precisions
        for row in STEPS
        if any(part in row for part in only) or row.startswith("Bridge")
    ]
    if compiled:
        found += [case | {"compiled": True} for case in found if case["row"] in COMPILED]
    return found


def main() -> None:
    """Measure all rows in turns, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps of a row in a round")
    parser.add_argument("--only", nargs="+", default=[""], help="rows with this in their name")
    parser.add_argument("--compiled", action="store_true", help="also with torch.compile")
    parser.add_argument("--remark", default="", help="what else the machine was doing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        case = json.loads(given.case)
        print(json.dumps(measure(*case.values())))
        return
    rows = cases(given.sizes, given.precisions, given.only, given.compiled)
    rounds: list[list[dict[str, Any]]] = [[] for _ in rows]
    for _ in range(given.rounds):
        for row, found in zip(rows, rounds, strict=True):
            case = {k: row[k] for k in ("row", "size", "precision")}
            case |= {"steps": given.steps, "compiled": row["compiled"]}
            command = [sys.executable, "-m", "benchmarks.speed.training_step", "--case"]
            done = subprocess.run([*command, json.dumps(case)], check=True, stdout=subprocess.PIPE)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(row, f"{1e3 * statistics.median(found[-1]['seconds']):.0f} ms a step", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = device.type == "cpu" and torch.get_num_threads() == 1
    result = {
        "machine": ", ".join(
            [
                describe_device(device),
                *([given.remark] if given.remark else []),
            ]
        ),
        "cores": os.cpu_count(),
        "clock": "the clock is the process's own time" if own else "the clock is the wall's",
        "torch": torch.__version__,
        "rounds": given.rounds,
        "rows": [
            summary(row, found, SIZES[row["size"]].batch)
            for row, found in zip(rows, rounds, strict=True)
        ],
    }
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(table(result)))


if __name__ == "__main__":
    main()
