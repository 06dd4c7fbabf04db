"""`--optimization.batch-size auto`: the largest batch with which a step fits into memory.

The number that was found replaces `auto` in the settings, and with them in the run's config.yaml:
whoever goes on with the run takes that number, however much memory is free then.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, find_executable_batch_size
from torch import nn

from vilta.config import OptimizationConfig, PretrainConfig, PretrainTextConfig
from vilta.config.finetune import FinetuneConfig
from vilta.config.yaml_file import read_mapping
from vilta.screen import notes
from vilta.training.folder import CONFIG, check_run_folder
from vilta.training.gradients import StepGradient
from vilta.training.optimization import build_optimizer, clip_gradient
from vilta.training.precision import choose_dtype, describe_device, return_freed_memory
from vilta.training.processes import start_processes
from vilta.types import Batch, TrainableTask

Config = TypeVar("Config", PretrainConfig, PretrainTextConfig, FinetuneConfig)
MOST = 4096
"""Largest batch that is tried (METER's and ALBEF's whole batches; our choice)."""
STEPS_AN_EPOCH = 16
"""A batch is at most this part of the training data: fewer steps teach little (our choice)."""
SHARE = 0.5
"""Part of a CPU's free memory that a step may take: other programs want some (our choice)."""
CAPPED = f"auto takes no more than {MOST}, and no less than {STEPS_AN_EPOCH} steps an epoch"
FIRST, LONG_ENOUGH = 2, 3.0
"""On a CPU: samples of the first step, and seconds of two steps from which on a step of more
samples is reckoned from those taken (our choice)."""


def with_batch_size(
    config: Config,
    costliest_task: Callable[[], TrainableTask],
    batches_of: Callable[[OptimizationConfig], Iterable[Any]],
    samples: int,
) -> Config:
    """Return the settings with a number in place of `auto`, and say which and why.

    ``costliest_task`` makes a copy of the task with every objective begun, which is trained here
    and thrown away; ``batches_of`` gives the first micro-batches of a run; ``samples`` is the size
    of the training data, or 0 if that is unknown. Changes nothing if there is a number already.

    Raises ``ValueError`` for several processes, and if not even one sample fits.
    """
    if config.optimization.batch_size != "auto":
        return config
    if check_run_folder(config.run):
        began = read_mapping(Path(config.run.out) / CONFIG).get("optimization", {})
        size, why = began.get("batch_size", "auto"), "as the run began"
        if not isinstance(size, int):
            raise ValueError(
                f"{config.run.out}/{CONFIG} does not say with what batch size the run began; "
                "name it with --optimization.batch-size"
            )
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--optimization.batch-size auto tries steps in one process; find the number without "
            "torchrun, halve it to be safe, and name it"
        )
    else:
        accelerator = start_processes(config.run)
        most = largest_power_of_two(min(MOST, samples // STEPS_AN_EPOCH) if samples else MOST)

        def take_steps(size: int) -> None:
            chosen = replace(config.optimization, batch_size=size)
            two_steps(costliest_task(), accelerator, chosen, batches_of(chosen))

        on_cpu = accelerator.device.type == "cpu"
        size, why = (within_free_memory if on_cpu else largest_that_runs)(take_steps, most)
        if not on_cpu:
            why += f" on {describe_device(accelerator.device)}"
    notes.print(f"batch size {size}: {why}")
    return replace(config, optimization=replace(config.optimization, batch_size=size))


def two_steps(
    task: TrainableTask,
    accelerator: Accelerator,
    optimization: OptimizationConfig,
    batches: Iterable[Any],
) -> None:
    """Take two steps as training does; the second one also holds the optimizer's moments."""
    module = cast(nn.Module, task)
    module.train()
    dtype, _ = choose_dtype(optimization.precision, accelerator.device, module)
    gradient = StepGradient(module, accelerator, dtype, optimization.accumulate)
    optimizer = build_optimizer(task, optimization)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    step = [_longest(batch, task) for batch in islice(batches, optimization.accumulate)]
    for _ in range(2):
        gradient.add(step, range(len(step)))
        clip_gradient(trained, optimization.clip)
        optimizer.step()
        optimizer.zero_grad()


def largest_that_runs(take_steps: Callable[[int], None], most: int) -> tuple[int, str]:
    """Return the largest power of two up to ``most`` for which there is memory, and the reason."""
    size = 2 * most

    def halved() -> int:
        nonlocal size
        size //= 2
        return size

    def fits(size: int) -> int:
        take_steps(size)
        return size

    try:
        found = find_executable_batch_size(
            fits, starting_batch_size=halved(), reduce_batch_size_fn=halved
        )()
    except RuntimeError as error:
        if size:  # another error, not that of the search
            raise
        raise ValueError(
            "not even a step with one sample fits into memory; lower --data.image-size, add "
            "--model.gradient-checkpointing, or take smaller encoders"
        ) from error
    finally:
        clear_device_cache(garbage_collection=True)
    return found, CAPPED if found == most else f"a step with {2 * found} runs out of memory"


def within_free_memory(take_steps: Callable[[int], None], most: int) -> tuple[int, str]:
    """Return the largest power of two up to ``most`` within a share of the free memory.

    A CPU does not say that memory is exhausted, the system ends the process. So steps of 2, 4, 8
    and more samples are taken until one lasts long enough, and what they need is extrapolated.
    """
    with ResidentPeak() as idle:
        free = psutil.virtual_memory().available
    size, needed, each, seconds = min(FIRST, most), 0.0, 0.0, 0.0
    while True:
        began, last = time.perf_counter(), needed
        with ResidentPeak() as peak:
            take_steps(size)
        seconds, needed = time.perf_counter() - began, peak.bytes - idle.bytes
        each = max(needed - last, 0) / (size / 2)
        known = size > FIRST and seconds > LONG_ENOUGH
        if known or 2 * size > most or needed + each * size > SHARE * free:
            break
        size *= 2
    while size > 1 and needed > SHARE * free:
        size, needed = size // 2, needed - each * size / 2
    while 2 * size <= most and needed + each * size <= SHARE * free:
        size, needed = 2 * size, needed + each * size
    memory = f"a step needs some {needed / 1e9:.1f} GB of the {free / 1e9:.1f} GB that are free"
    return size, f"{memory}; {CAPPED}" if size == most else memory


class ResidentPeak:
    """The largest memory of this process while the block runs, in ``bytes``."""

    def __init__(self) -> None:
        self.bytes, self._process, self._done = 0, psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ResidentPeak:
        gc.collect()
        return_freed_memory()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()  # with glibc, what was freed is still there (``keep_for_next_step``)
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._look()


def largest_power_of_two(number: int) -> int:
    """Return the largest power of two that is not above ``number``; 1 for less than that."""
    return 1 << max(number, 1).bit_length() - 1


def _longest(batch: Any, task: TrainableTask) -> Any:
    """Return the batch with texts as long as any may be."""
    limit = getattr(getattr(task, "model", None), "config", None)
    tokens = getattr(limit, "max_text_tokens", 0)
    if not isinstance(batch, Batch) or batch.input_ids.shape[1] >= tokens:
        return batch
    return batch.padded(tokens)
