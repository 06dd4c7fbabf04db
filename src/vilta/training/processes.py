"""The processes of a run: how they start, agree on stopping, and draw their random numbers."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import (
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import Tensor, nn

from vilta.config import RunConfig
from vilta.training.precision import choose_device, keep_for_next_step
from vilta.training.sharding import forget_processes

T = TypeVar("T")
_BUCKET = 25_000_000
"""Numbers that are sent at once, 100 MB."""


def start_processes(run: RunConfig) -> Accelerator:
    """Join the processes that ``torchrun`` started, or run alone.

    Precision and accumulation are the loop's own, so that a run does not depend on how
    ``accelerate config`` was answered. Raises ``ValueError`` if a missing device is asked for.
    """
    cpu = choose_device(run.device).type == "cpu"
    if cpu:
        keep_for_next_step()
    else:
        # TF32 for what is float32: ten bits of each factor, sums in float32, several times as fast.
        torch.set_float32_matmul_precision("high")
    if torch.distributed.is_available():
        # Its functions' default value is the group of all processes, if there is one when it is
        # imported: they would hold it until the interpreter ends (see leave_processes).
        import_module("torch.distributed.nn.functional")
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # others wait for a checkpoint
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=[patience])
    atexit.register(leave_processes)
    return accelerator


def leave_processes() -> None:
    """Leave the process groups so that nothing keeps them alive; called at the end of the program.

    A thread of gloo that lives on may let go of its last tensor while the interpreter ends. It
    then waits for the interpreter's lock, is ended there, and the process with it: "terminate
    called without an active exception", exit status -6, after a run that ended well.
    """
    machine.cache_clear()
    forget_processes()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Let the first process do ``work`` while the others wait; all get its result or its error.

    Raises the ``ValueError`` or ``OSError`` of ``work``, in every process as ``ValueError``: when
    only the first one stopped, the others would wait for it in vain.
    """
    if accelerator.num_processes == 1:
        return work()
    outcome: list[Any] = [None, ""]
    cause: Exception | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except (ValueError, OSError) as error:
            outcome, cause = [None, str(error) or type(error).__name__], error
    broadcast_object_list(outcome)
    if outcome[1]:
        raise ValueError(outcome[1]) from cause
    return cast(T, outcome[0])


class _GatherRows(torch.autograd.Function):
    """All processes' rows; backward returns to each process what all of them want of its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        ctx.size, ctx.group = len(rows), group
        count = torch.distributed.get_world_size(group)
        gathered = rows.new_empty(count * len(rows), *rows.shape[1:])
        torch.distributed.all_gather(list(gathered.chunk(count)), rows.contiguous(), group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return wanted_of_own(gradients[0].contiguous(), ctx.group, ctx.size), None


def wanted_of_own(gradient: Tensor, group: Any, size: int) -> Tensor:
    """Return what all processes of a group want of the ``size`` own rows of a gathered tensor."""
    if process_count() == 1:
        return gradient
    torch.distributed.all_reduce(gradient, group=group)
    first = torch.distributed.get_rank(group) * size
    return gradient[first : first + size]


@lru_cache
def machine() -> Any:
    """Return the group of the processes on this machine; None where these are all, or uneven."""
    count = process_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count))  # torchrun tells it
    return torch.distributed.new_subgroups(here)[0] if here < count and count % here == 0 else None


def process_count() -> int:
    """Return how many processes train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


def gather_rows(rows: Tensor, group: Any = None) -> Tensor:
    """Return the rows of all processes of a group ``[processes * B, ...]``, in their order.

    The gradient is exact: it holds what the losses of all of them want of the own rows. All
    must have equal shapes and call this in the same order.
    """
    return cast(Tensor, _GatherRows.apply(rows, group)) if process_count() > 1 else rows


@torch.no_grad()
def average_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients, as DDP does in its backward pass."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accelerator.num_processes == 1 or not gradients:
        return
    sizes = torch.tensor([g.numel() for g in gradients]).cumsum(0)
    for part in range(int(sizes[-1]) // _BUCKET + 1):
        own = [
            g for g, end in zip(gradients, sizes.tolist(), strict=True) if end // _BUCKET == part
        ]
        if own:
            joint = torch.cat([gradient.flatten() for gradient in own])
            means = cast(Tensor, accelerator.reduce(joint, "mean"))
            for gradient, mean in zip(own, means.split([g.numel() for g in own]), strict=True):
                gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return the running means and variances of the batch norms that learn."""
    found = [
        part._buffers[name]
        for part in module.modules()
        if part.training and "running_mean" in part._buffers  # each library writes one of its own
        for name in ("running_mean", "running_var")
    ]
    return [buffer for buffer in found if buffer is not None]


def average_statistics(accelerator: Accelerator, own: list[Tensor]) -> None:
    """Give running statistics the mean of those of all processes.

    Each process has seen its own part of the batch. The mean of their variances leaves out how far
    their means differ, so it is not exactly the variance of the joint batch.
    """
    if accelerator.num_processes > 1 and own:
        joint = torch.cat([buffer.flatten() for buffer in own])
        means = cast(Tensor, accelerator.reduce(joint, "mean"))
        for buffer, mean in zip(own, means.split([b.numel() for b in own]), strict=True):
            buffer.copy_(mean.view_as(buffer))
