"""What to do when a step does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vilta.config import OptimizationConfig


@contextmanager
def out_of_memory_explained(step: int, optimization: OptimizationConfig) -> Iterator[None]:
    """Turn torch's report of exhausted memory into a ``ValueError`` that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and (
            "can't allocate memory" not in text
        ):
            raise
        raise ValueError(
            f"out of memory in step {step}, with {optimization.batch_size} samples at once; halve "
            "--optimization.batch-size and double --optimization.accumulate (the same training), "
            "lower --data.image-size, or add --model.gradient-checkpointing"
        ) from error
