"""The numbers that a step leaves on its device, and how they come to the program.

A GPU works behind the program, which has queued the next step before this one is done. Reading a
number waits until it is, and the device then idles until the next step is queued. So the numbers of
a step are copied while the next one runs, and read after it is queued.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor


def comes_late(device: torch.device) -> bool:
    """Whether the numbers of a step are read one step later; a CPU has them at once."""
    return device.type == "cuda"


def joint_flags(
    accelerator: Accelerator, norm: Tensor, losses: list[Tensor], *, asked: bool, due: bool
) -> Tensor:
    """Return 1 or 0 for: not finite, asked to stop, a checkpoint is due; true if on any process.

    The three stay on the device: the first of them decides there whether the optimizer steps.
    """
    finite = torch.stack([torch.isfinite(value).all() for value in (norm, *losses)]).all()
    # Filled on the device: a number that is copied there from Python would be waited for.
    told = [torch.full((), float(flag), device=norm.device) for flag in (asked, due)]
    flags = torch.stack([(~finite).float(), *told])
    return cast(Tensor, accelerator.reduce(flags, "sum")).clamp(max=1)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step reported, as Python's numbers."""

    broken: bool
    """Loss or gradient was not finite on some process, so no weight has changed."""
    stopping: bool
    saving: bool
    reports: list[dict[str, float]]
    """Of each micro-batch of this process."""


class StepReport:
    """The numbers of one step on their way to the program."""

    def __init__(
        self,
        step: int,
        rate: float,
        names: list[list[str]],
        flags: Tensor,
        reports: list[dict[str, Tensor]],
    ) -> None:
        self.step, self.rate, self.names = step, rate, names
        """Steps taken with this one, its learning rate, the samples of its micro-batches."""
        self._keys = [list(report) for report in reports]
        device = flags.device
        scalars = [value.detach().to(device) for report in reports for value in report.values()]
        numbers = torch.cat([flags, torch.stack(scalars).float()])
        self._numbers = numbers
        self._arrived: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> None:
        """Wait until the step has ended on its device."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def read(self) -> Outcome:
        """Return the numbers, once the step has ended."""
        self.wait()
        broken, stopping, saving, *values = self._numbers.tolist()
        numbers = iter(values)
        return Outcome(
            broken=broken > 0,
            stopping=stopping > 0,
            saving=saving > 0,
            reports=[{key: next(numbers) for key in keys} for keys in self._keys],
        )
