"""What transformers and torch raise for configurations and weights that they have not written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""All of it but ``OSError``; found by reliability/fuzz_readers.py."""


@contextmanager
def damage_told(source: Any) -> Iterator[None]:
    """Turn what damaged weights, or a configuration of them, raise into a ``ValueError`` of a line.

    The words of the library for damaged weights are left out: some advise to read the file without
    any protection.
    """
    try:
        yield
    except (SafetensorError, UnpicklingError) as error:
        raise ValueError(
            f"the weights in {source} are damaged; copy or download them again (a run writes its "
            "model again with --run.resume)"
        ) from error
    except UNREADABLE as error:
        raise ValueError(f"{source} cannot be loaded: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
