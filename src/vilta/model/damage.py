"""What transformers and torch raise for configurations and weights that they have not written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from vilta import torch_file

UNREADABLE = (*torch_file.UNREADABLE, StrictDataclassError)
"""All of it but ``OSError``."""


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


MOST = {
    "num_hidden_layers": 1000,
    "depths": 1000,
    "fusion_layers": 1000,
    "hidden_size": 100_000,
    "hidden_sizes": 100_000,
    "intermediate_size": 1_000_000,
    "vocab_size": 10_000_000,
}
"""What a configuration may ask for, far beyond any model (our choice): a file of a line could keep
a machine busy for days."""


def check_sizes(config: Any) -> None:
    """Raise ``ValueError`` for a size that no model has, in a configuration or one of its parts."""
    for part in (
        config,
        getattr(config, "vision_config", None),
        getattr(config, "text_config", None),
    ):
        for name, most in MOST.items():
            value = getattr(part, name, 0)
            for size in value if isinstance(value, list | tuple) else [value]:
                if isinstance(size, int) and size > most:
                    raise ValueError(f"its {name} is more than {most:,}")


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, or its name if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
