"""What to do when a step does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size

from vilta.config import OptimizationConfig


@contextmanager
def out_of_memory_explained(step: int, optimization: OptimizationConfig) -> Iterator[None]:
    """Turn torch's report of exhausted memory into a ``ValueError`` that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not exhausted and not should_reduce_batch_size(error):
            raise
        raise ValueError(
            f"out of memory in step {step}, with {optimization.batch_size} samples at once; halve "
            "--optimization.batch-size and double --optimization.accumulate (the same training), "
            "lower --data.image-size, add --model.gradient-checkpointing, or start anew with "
            "--optimization.batch-size auto"
        ) from error
