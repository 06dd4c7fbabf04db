"""How the micro-batches of a step, on all processes, add up to one gradient.

For most tasks a step's loss is the mean of its micro-batches' losses, and gradients add up. In a
task that compares the pairs of a step with each other (``SharesRows``) the loss of one micro-batch
depends on what all the others encode to. The gradient is then made in three passes (as in
GradCache, arXiv 2101.06983) and is exactly that of one large batch:

1. every micro-batch is encoded, and the graph dropped;
2. each one's loss is computed with all encodings as given tensors, which collect gradients;
3. every micro-batch is encoded again, with a graph, and gets the gradients of its encodings.

With one micro-batch per process nothing is encoded twice: the task gathers with gradients
(``processes.gather_rows``) and DDP does the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vilta.training.precision import autocast
from vilta.training.processes import average_gradients, gather_rows, machine, wanted_of_own
from vilta.training.sharding import in_parts
from vilta.types import Losses, SharesRows

Report = dict[str, Tensor]


class StepGradient:
    """Computes the gradient of a step into the parameters of ``module``, which it prepares."""

    def __init__(
        self, module: nn.Module, accelerator: Accelerator, dtype: torch.dtype, accumulate: int
    ) -> None:
        self.module, self.accelerator, self.dtype = module, accelerator, dtype
        self.shares = isinstance(module, SharesRows)
        self.cached = self.shares and accumulate > 1
        module.to(accelerator.device)
        self.model, self.idle = module, list[nn.Parameter]()
        self.trained = [p for p in module.parameters() if p.requires_grad]
        # The three passes average their gradients themselves, at the end.
        self.sharded = any(map(in_parts, self.trained))  # FSDP2 averages those
        self.averaged = [p for p in module.parameters() if not in_parts(p)]
        joined = accelerator.num_processes > 1 and not self.cached and not self.sharded
        self.wrap_next: Literal["searching", "settled", ""] = "searching" if joined else ""
        self.wrapped: Literal["searching", "settled", ""] = ""
        self.host: Any = None
        if self.shares and accelerator.num_processes > 1:
            self.host = torch.distributed.new_group(backend="gloo")

    def add(self, batches: Sequence[Any], seeds: Sequence[int]) -> list[Report]:
        """Add the gradient of a step; return what to log of each of its micro-batches.

        ``seeds`` are those of the random numbers of each micro-batch.
        """
        if self.shares:
            longest = self._largest(max(batch.input_ids.shape[1] for batch in batches))
            batches = [batch.padded(longest) for batch in batches]
        batches = [batch.to(self.accelerator.device) for batch in batches]
        if self.cached:
            return self._add_cached(batches, seeds)
        if self.wrap_next:
            self._wrap(self.wrap_next)
        reports = []
        for index, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
            torch.manual_seed(seed)
            last = index == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with autocast(self.accelerator.device, self.dtype):
                    losses: Losses = self.model(batch)
                self.accelerator.backward(losses.total / len(batches))
            reports.append({"loss": losses.total.detach(), **losses.metrics})
        if self.wrapped:
            self._look_for_idle()
        if self.sharded:
            average_gradients(self.accelerator, self.averaged)
        return reports

    def _wrap(self, how: Literal["searching", "settled"]) -> None:
        """Wrap the module in DDP: first searching for parameters without a gradient, then not.

        Encoders come with poolers that are not used, and objectives begin in the middle of a run.
        To search in each step takes time and, where there are any, waits for the device.
        """
        self.wrapped, self.wrap_next = how, ""
        self.model = self.module  # the former wrapper lets go of the parameters
        idle = set(map(id, self.idle))
        every = self.module.named_parameters(remove_duplicate=False)  # a tied one has two names
        names = [name for name, parameter in every if id(parameter) in idle]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.module, names)
        device = self.accelerator.device
        # Gradients of convolutions come as their images are laid out; DDP copies them, and says so.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            # torch 2.13 prefers a name for half of it, and has none yet for the other half.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model = DistributedDataParallel(
                self.module,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=how == "searching",
                broadcast_buffers=False,  # only batch norms change some: average_statistics
                gradient_as_bucket_view=True,
            )

    def _look_for_idle(self) -> None:
        """See which parameters had no gradient; they are the same in every process."""
        if self.wrapped == "searching":
            self.idle, self.wrap_next = [p for p in self.trained if p.grad is None], "settled"
        elif awake := [p for p in self.idle if p.grad is not None]:
            average_gradients(self.accelerator, awake)  # as DDP does for the others
            self.idle, self.wrap_next = [], "searching"

    def _add_cached(self, batches: Sequence[Any], seeds: Sequence[int]) -> list[Report]:
        """Add the gradient in three passes."""
        task, device = cast(SharesRows, self.module), self.accelerator.device
        own, states = [], []
        with _kept_statistics(self.module):
            for batch, seed in zip(batches, seeds, strict=True):
                torch.manual_seed(seed)
                # With a graph, which is dropped: without one, attention may run in another form,
                # whose dropout draws other numbers than the third pass.
                with autocast(device, self.dtype):
                    own.append([tensor.detach() for tensor in task.encode(batch)])
                states.append(_random_state(device))
        groups = [machine() if i < task.near else None for i in range(len(own[0]))]
        joint = [
            gather_rows(torch.cat(parts), group) for group, *parts in zip(groups, *own, strict=True)
        ]
        everyone = [tensor.requires_grad_(tensor.is_floating_point()) for tensor in joint]
        before = self.accelerator.process_index * len(batches)
        reports = []
        for index, (batch, state) in enumerate(zip(batches, states, strict=True)):
            _set_random_state(device, state)
            with autocast(device, self.dtype):
                losses = self.module(batch, everyone, (before + index) * len(batch))
            (losses.total / len(batches)).backward()
            reports.append({"loss": losses.total.detach(), **losses.metrics})
        wanted = [
            None
            if tensor.grad is None
            else wanted_of_own(tensor.grad, group, sum(map(len, parts))).chunk(len(batches))
            for tensor, group, *parts in zip(everyone, groups, *own, strict=True)
        ]
        for index, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
            torch.manual_seed(seed)
            with autocast(device, self.dtype):
                encoded = task.encode(batch)
            pairs = [
                (tensor, gradients[index])
                for tensor, gradients in zip(encoded, wanted, strict=True)
                if gradients is not None and tensor.requires_grad
            ]
            if pairs:  # none where only losses of the text alone are due
                torch.autograd.backward(*map(list, zip(*pairs, strict=True)))
        average_gradients(self.accelerator, self.averaged)
        return reports

    def _largest(self, number: int) -> int:
        """Return the largest of all processes' numbers; they wait for each other, not for a GPU."""
        if self.host is None:
            return number
        told = torch.tensor(number)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self.host)
        return int(told)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Undo what the block does to the running statistics of batch norms."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    buffers = [part._buffers.get(name) for part in module.modules() for name in names]
    kept = [(buffer, buffer.clone()) for buffer in buffers if buffer is not None]
    yield
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)


def _random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the global generators that a step on ``device`` draws from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
