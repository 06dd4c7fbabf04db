"""Files that ``torch.save`` has written, or that say so."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What torch and transformers raise for what they have not written, but for ``OSError``; found by
reliability/fuzz_readers.py."""


def load_torch_file(path: str | Path) -> Any:
    """Return the content of a file, on the CPU; nothing but tensors and plain values is unpickled.

    ``ValueError`` with the reason in one line if the file is damaged or holds other objects.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *UNREADABLE) as error:
        # What follows the first line advises to read the file without any protection.
        reason = str(error).partition("\n")[0]
        raise ValueError(reason or type(error).__name__) from None
