"""What training on many GPUs needs, on paper: writes docs/scaling.md.

    python -m benchmarks.speed.scaling

Measured figures come from benchmarks/results; the order of a stream is simulated with the package's
own code, on shards that have a size and no content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.speed.step_arms import SIZES, make_batch, vilta_step
from torch.utils.flop_counter import FlopCounterMode

from vilta.config import DataConfig
from vilta.data.order import permutation
from vilta.data.streaming import CHUNK, StreamedPairs

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "scaling.md"
PAIRS, SHARD, SPREAD = 100_000_000, 7_300, 200
"""Pairs in all; pairs of a shard and their standard deviation, as where a quarter of 10,000
addresses no longer answers."""
PATCHES, WIDTH, TOKENS, EMBEDDING = 197, 768, 24, 256
"""States of an image and of a caption that are gathered, base size, and their embeddings."""
MACHINE = 8
"""GPUs of a machine."""
WORKERS, MIXED, BATCH = 6, 4, 128
NVLINK, NETWORK = 300e9, 40e9
"""Bytes a second that a GPU sends in a ring, inside a machine and between machines: assumptions."""
GPUS = (8, 64)


@dataclass(frozen=True)
class Model:
    """A model of base size."""

    trained: int
    frozen: int
    flops: float
    """Of a pair, in a step of the whole method."""


def base_model(fusion: str) -> Model:
    """Count weights and FLOPs of the whole method, by running it on two pairs.

    Their captions are padded as in the step whose rate was measured on a GPU.
    """
    size = replace(SIZES["base"], batch=2)
    longest = make_batch(replace(size, batch=measured_step()["batch"]), 0).input_ids.shape[1]
    model, losses = vilta_step(size, "vilta", fusion)
    with FlopCounterMode(display=False) as counter:
        losses(make_batch(size, 0).padded(longest)).backward()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    return Model(trained, every - trained, counter.get_total_flops() / size.batch)


def plan(model: Model, gpus: int, rates: dict[str, Any], pairs_per_s: float) -> dict[str, str]:
    """Return what a run on ``gpus`` needs."""
    data = rates["packing"]["short_side_384_bytes_per_pair"]
    wire, here = NVLINK if gpus <= MACHINE else NETWORK, min(gpus, MACHINE)
    gradients = ring(gpus, 2 * 4 * model.trained)
    # Gathered once, and the gradient of all of it summed: a ring sends twice what it gathers.
    state, pair = 4 * WIDTH * (PATCHES + TOKENS), 3 * 2 * 4 * EMBEDDING
    states, embeddings = ring(here, 3 * here * BATCH * state), ring(gpus, gpus * BATCH * pair)
    everywhere = ring(gpus, 3 * gpus * BATCH * state) / wire
    compute = BATCH / pairs_per_s
    waiting = states / NVLINK + embeddings / wire
    sending = waiting + gradients / wire
    seconds = compute + waiting + max(0.0, gradients / wire - compute / 2)
    total = gpus * BATCH / seconds
    held = 16 * model.trained + 4 * model.frozen
    return {
        "pairs a step": f"{gpus * BATCH:,}",
        "steps an epoch": f"{PAIRS / (gpus * BATCH):,.0f}",
        "weights, gradients, AdamW and teacher, GB a GPU": f"{held / 1e9:.1f}",
        "gathered states and their gradient, GB a GPU": f"{2 * here * BATCH * state / 1e9:.1f}",
        "gradients sent, GB a GPU and step": f"{gradients / 1e9:.1f}",
        "states sent within a machine, GB a GPU and step": f"{states / 1e9:.1f}",
        "embeddings sent, GB a GPU and step": f"{embeddings / 1e9:.2f}",
        "computing, ms a step": f"{1e3 * compute:,.0f}",
        "sending, ms a step": f"{1e3 * sending:,.0f}",
        "sending, ms, if states went everywhere": f"{1e3 * (everywhere + gradients / wire):,.0f}",
        "a step, ms (gradients sent during the backward pass)": f"{1e3 * seconds:,.0f}",
        "pairs a second": f"{total:,.0f}",
        "hours for 100 M pairs": f"{PAIRS / total / 3600:,.1f}",
        "cores that read and crop, a GPU": f"{total / gpus / rates['images_per_s']['crop']:.1f}",
        "data read, GB/s": f"{total * data / 1e9:.2f}",
    }


def ring(gpus: int, size: float) -> float:
    """Return the bytes that each GPU sends to pass on ``size`` bytes in a ring."""
    return size * (gpus - 1) / gpus


def simulate(gpus: int) -> dict[str, str]:
    """Follow the order of a stream on ``gpus`` through two epochs."""
    generator = np.random.default_rng(0)
    shards = PAIRS // SHARD
    sizes = generator.normal(SHARD, SPREAD, shards).round().astype(int)
    lanes = gpus * WORKERS * MIXED
    config = DataConfig(lanes=lanes, mixed_lanes=MIXED)
    stream = StreamedPairs([f"{i}.tar" for i in range(shards)], config, 0, "simulated")
    step = [stream.key_at(BATCH, place)[0] for place in range(gpus * BATCH)]
    turn = next(n for n in range(1, 10**6) if stream.key_at(BATCH, n * BATCH)[0] == step[0])
    # What each lane reads of two epochs, shard by shard.
    order = np.concatenate([permutation(0, shards, epoch).numpy() for epoch in range(2)])
    ends = np.array([sizes[order[lane:shards:lanes]].sum() for lane in range(lanes)])
    mean = ends.mean()
    random = shards * (1 - (1 - 1 / shards) ** (gpus * BATCH))
    spread = CHUNK * MIXED // BATCH * turn // gpus
    told = stream.read_over(BATCH, gpus, 1, WORKERS)
    return {
        "readers (GPUs x workers)": f"{gpus * WORKERS:,}",
        "lanes, `--data.lanes`": f"{lanes:,}",
        "each shard is read by": told or "one process",
        "shards in a step": f"{len(set(step)):,} (at random {random:,.0f})",
        "negatives of a pair from its own shard": f"{100 * BATCH / MIXED / (gpus * BATCH):.2f} %",
        "256 neighbours of a shard are spread over": f"{spread:,} steps",
        "pairs of epoch 2 before epoch 1 is whole": f"{100 * (ends.max() - mean) / mean:.0f} %",
        "encoded images held, GB in all": f"{lanes * CHUNK * 48594 / 1e9:.1f}",
    }


def rows(columns: dict[str, dict[str, str]]) -> list[str]:
    """Return a table in Markdown with a column for each."""
    names = list(next(iter(columns.values())))
    return [
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(
            f"| {name} | {' | '.join(column[name] for column in columns.values())} |"
            for name in names
        ),
        "",
    ]


def measured_step() -> dict[str, Any]:
    """Return what was measured of ViLTA's whole step at base on one GPU."""
    result = json.loads((RESULTS / "training_step_gpu.json").read_text())
    found = next(row for row in result["rows"] if row["row"].startswith("vilta `vilta`, "))
    return {**found, "machine": result["machine"]}


def rate_of_one_gpu(fusion: str, flops: float) -> tuple[float, str]:
    """Return pairs a second of one GPU with ViLTA's whole step at base, and where from.

    ``flops`` are those of a pair. A fusion that was not measured is taken to use as much of the GPU
    as the one that was.
    """
    row = measured_step()
    if row["row"].endswith(fusion):
        rate = row["pairs_per_s"]
        return rate, (
            f"{rate:,.0f} ({row['slowest_round']:,.0f} to {row['fastest_round']:,.0f}) on one "
            f"{row['machine']} with {row['batch']} pairs a step, measured"
        )
    used = row["MFU"] * row["ceiling_GFLOP_per_s"] * 1e9
    return used / flops, (
        f"{used / flops:,.0f}, assumed: as many FLOP/s, {used / 1e12:.0f} TFLOP/s, as "
        f"{row['row'].rpartition(' ')[2]} was measured at"
    )


def main() -> None:
    """Write the page."""
    torch.manual_seed(0)
    rates = json.loads((RESULTS / "data.json").read_text())
    lines = (Path(__file__).with_name("scaling_head.md")).read_text().splitlines()
    for fusion in ("cross-attention", "co-attention"):
        model = base_model(fusion)
        rate, source = rate_of_one_gpu(fusion, model.flops)
        lines += [
            "",
            f"## {fusion}",
            "",
            f"{model.trained / 1e6:.0f} M trained weights, {model.flops / 1e9:.0f} GFLOP a pair.",
            f"Pairs a second of a GPU alone: {source}.",
            "",
            *rows({f"{gpus} GPUs": plan(model, gpus, rates, rate) for gpus in GPUS}),
        ]
    lines += [
        "## The order of a stream",
        "",
        f"Simulated with the package's own code: {PAIRS // SHARD:,} shards of {SHARD:,} pairs"
        f" (standard deviation {SPREAD}), {BATCH} pairs a GPU, {WORKERS} loader processes each.",
        "",
        *rows({f"{gpus} GPUs": simulate(gpus) for gpus in GPUS}),
    ]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
