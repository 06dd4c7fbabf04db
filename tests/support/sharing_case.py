"""The gradient of one step on eight pairs, cut into micro-batches on some processes.

As a script it writes, under torchrun, what each process has after the step.
"""

import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

import torch
from pretraining_case import CAPTIONS, make_batch, make_task
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from vilta.config import RunConfig
from vilta.objectives import matching
from vilta.training.gradients import StepGradient
from vilta.training.processes import leave_processes, start_processes
from vilta.training.sharding import sharded_copy
from vilta.training.sharding import whole as in_one_piece
from vilta.types import Batch

PAIRS = 8
TEXTS = [*CAPTIONS, "a blue ball under a boat", "the dog runs on grass", "a cube"]


def whole(task) -> Batch:
    """Eight pairs; two show the same image."""
    return make_batch(task, TEXTS, images=[0, 1, 2, 3, 4, 5, 6, 0])


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Some rows of a batch, padded no further than they need, as a collator gives them."""
    length = int(batch.attention_mask[start:stop].sum(dim=1).max())
    old = batch.input_ids.shape[1]
    at = batch.masked_positions
    row, column = at.div(old, rounding_mode="floor"), at % old
    inside = (row >= start) & (row < stop)
    values = {f.name: getattr(batch, f.name)[start:stop] for f in fields(batch)}
    texts = {
        n: v[:, :length] for n, v in values.items() if n.endswith(("ids", "mask")) and v.ndim > 1
    }
    positions = ((row - start) * length + column)[inside]
    return replace(batch, **values | texts | {"masked_positions": positions})


def step(
    task, accelerator, accumulate: int, *, dropout: bool = False, shard: bool = False
) -> dict[str, Tensor]:
    """Return the gradients by name, and the means of what the own micro-batches report."""
    if dropout:
        for module in task.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
    task.to(accelerator.device)
    batch, count = whole(task), accelerator.num_processes * accumulate
    size = PAIRS // count
    first = accelerator.process_index * accumulate
    own = [cut(batch, i * size, (i + 1) * size) for i in range(first, first + accumulate)]
    own = [part.to(accelerator.device) for part in own]
    if shard:
        everything = sum(p.numel() for p in task.parameters())
        task = sharded_copy(task)
        held = sum(getattr(p, "_local_tensor", p).numel() for p in task.parameters())
        share = 1.02 / accelerator.num_processes
        assert held < share * everything, f"{held} of {everything} on one process"
        layers = [m for m in task.modules() if isinstance(m, FSDPModule)]
        assert len(layers) > 2, "no block of an encoder is gathered by itself"
    gradient = StepGradient(task, accelerator, torch.float32, accumulate)
    reports = gradient.add(own, [100 + i for i in range(first, first + accumulate)])
    found = {f"report/{n}": torch.stack([r[n].float() for r in reports]).mean() for n in reports[0]}
    gradients = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    return found | {n: in_one_piece(gradient).clone() for n, gradient in gradients.items()}


def hardest(monkeypatch=None) -> None:
    """Draw the most similar negatives: a random draw depends on how the step is cut."""
    matching.gumbel_like = torch.zeros_like


def leave_nothing() -> None:
    """Leave the other processes; a thread that stays may end this one badly."""
    leave_processes()
    if sys.platform == "linux":
        threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        assert not [name for name in threads if "gloo" in name], threads


if __name__ == "__main__":
    accelerator = start_processes(RunConfig(out="unused", device=sys.argv[3]))
    if int(sys.argv[2]):
        os.environ["LOCAL_WORLD_SIZE"] = sys.argv[2]
    for out, (objective, accumulate, dropout, *shard) in json.loads(sys.argv[1]).items():
        drawn = matching.gumbel_like
        if not dropout:
            hardest()
        task = make_task(**objective)
        result = step(task, accelerator, accumulate, dropout=dropout, shard=bool(shard))
        matching.gumbel_like = drawn
        torch.save(result, Path(out) / f"rank{os.environ['RANK']}.pt")
    leave_nothing()
