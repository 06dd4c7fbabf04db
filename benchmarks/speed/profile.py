"""Where the time of a step goes, and how it grows: writes docs/speed.md and its picture.

    python -m benchmarks.speed.profile

The whole method at the tiny size, float32, on one CPU thread. Of a few steps the fastest counts: by
the process's own clock, so that what else the machine does counts little; the profiler's clock is
the wall's, so there the fastest is taken of each kind of operation.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from benchmarks.speed.step_arms import SIZES, Size, make_batch, vilta_step
from torch.profiler import ProfilerActivity, profile

from vilta.training.precision import describe_device, keep_for_next_step

ROOT = Path(__file__).parents[2]
PAGE, PICTURE = ROOT / "docs" / "speed.md", ROOT / "docs" / "images" / "speed.svg"
RESULTS = ROOT / "benchmarks" / "results" / "profile.json"
FUSION = ("co-attention", "cross-attention")
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear"),
    "attention": ("attention",),
    "dropout": ("ByteDropout", "random_", "dropout"),
    "norms": ("layer_norm", "batch_norm"),
    "activations": ("gelu", "tanh", "relu"),
    "softmax and losses": ("softmax", "nll", "cross_entropy", "topk", "sort"),
    "optimizer": ("adam", "norm", "clamp"),
    "copies and indexing": ("copy", "cat", "index", "gather", "clone", "contiguous", "select"),
}
"""Kinds of operations by parts of their names; the first that fits counts."""
GROWTH: dict[str, tuple[str, list[Any]]] = {
    "pairs a step (B)": ("batch", [4, 8, 16]),
    "side of the image, pixels": ("pixels", [64, 128, 160]),
    "words (V)": ("words", [2048, 8192, 16384]),
    "layers of each encoder": ("layers", [2, 4, 6]),
    "fusion layers": ("fusion_layers", [1, 2, 3]),
    "longest caption (L)": ("tokens", [8, 16, 32]),
}


class Step:
    """A step of the whole method."""

    def __init__(self, size: Size, fusion: str) -> None:
        torch.manual_seed(0)
        self.task, self.losses = vilta_step(size, "vilta", fusion)
        self.task.train()
        trained = [p for p in self.task.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        self.batch = make_batch(size, 0)

    def take(self) -> None:
        """Forward, backward and AdamW."""
        self.losses(self.batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self, steps: int = 2) -> float:
        """Return the time of the fastest step after one to warm up."""
        self.take()
        found = []
        for _ in range(steps):
            began = time.process_time()
            self.take()
            found.append(time.process_time() - began)
        return min(found)


def shares(fusion: str, steps: int = 5) -> dict[str, float]:
    """Return which share of a step's time each kind of operation takes."""
    step = Step(SIZES["tiny"], fusion)
    step.take()
    every = [profiled(step) for _ in range(steps)]
    spent = {kind: min(one[kind] for one in every) for kind in every[0]}
    total = sum(spent.values())
    return {kind: value / total for kind, value in sorted(spent.items(), key=lambda x: -x[1])}


def profiled(step: Step) -> dict[str, float]:
    """Return the time that each kind of operation takes in one step."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step.take()
    spent: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        name = event.key.removeprefix("aten::").lower()
        kind = next(
            (k for k, parts in KINDS.items() if any(part.lower() in name for part in parts)),
            "other, with Python",
        )
        spent[kind] += event.self_cpu_time_total
    return spent


@lru_cache
def milliseconds(size: Size, fusion: str) -> float:
    """Return how long a step of a size takes."""
    return 1e3 * Step(size, fusion).seconds()


def growth(fusion: str) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step for each value of each size, the others as they are."""
    return {
        name: {
            str(value): milliseconds(replace(SIZES["tiny"], **{field: value}), fusion)
            for value in values
        }
        for name, (field, values) in GROWTH.items()
    }


def draw(result: dict[str, Any]) -> None:
    """Draw the curves."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
    for axis, name in zip(axes.flat, GROWTH, strict=True):
        for fusion in FUSION:
            curve = result["growth"][fusion][name]
            axis.plot([int(x) for x in curve], list(curve.values()), marker="o", label=fusion)
        axis.set(xlabel=name, ylabel="ms a step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(frameon=False)
    plt.rcParams["svg.hashsalt"] = "vilta"
    figure.savefig(PICTURE, metadata={"Date": None})


def page(result: dict[str, Any]) -> str:
    """Return the page."""
    kinds = list(dict.fromkeys(kind for fusion in FUSION for kind in result["shares"][fusion]))
    lines = [
        "# Where the time of a step goes",
        "",
        "Written by `python -m benchmarks.speed.profile`: the whole method at the tiny size (width",
        "256, 4 layers in each encoder, 2 fusion layers, 128 pixels, 16 pairs), float32, on",
        f"{result['machine']}, torch {result['torch']}, one run on a",
        "shared machine: differences of a tenth mean nothing. Of each kind of operation the",
        "fastest of five profiled steps counts; of the curves the faster of two steps, by the",
        "process's own time.",
        "How it compares with other models: [Results](results.md).",
        "",
        "| share of a step | " + " | ".join(FUSION) + " |",
        "|---|---|---|",
    ]
    for kind in kinds:
        cells = [f"{result['shares'][fusion].get(kind, 0):.0%}" for fusion in FUSION]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += [
        "",
        "![Milliseconds of a step as each size grows alone](images/speed.svg)",
        "",
        "One size grows at a time, from the same starting point.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, draw, and write the page; `--page` only writes it anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="from the figures that are there")
    if not parser.parse_args().page:
        keep_for_next_step()
        torch.set_num_threads(1)
        result = {
            "machine": describe_device(torch.device("cpu")),
            "torch": torch.__version__,
            "shares": {fusion: shares(fusion) for fusion in FUSION},
            "growth": {fusion: growth(fusion) for fusion in FUSION},
        }
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    result = json.loads(RESULTS.read_text())
    draw(result)
    PAGE.write_text(page(result))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
