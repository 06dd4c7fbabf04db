"""JSON that others may have written, or that a full disk has cut short; numbers that it lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class File(Protocol):
    """A path, here or on another machine."""

    def read_bytes(self) -> bytes:
        """Return the content."""


def parse_json(text: str | bytes) -> Any:
    """Return what the text says; ``ValueError`` if it is not JSON, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_object(file: File) -> dict[str, Any]:
    """Return the object in a file; an empty one if it is missing, damaged or holds another value.

    For records that a program can do without.
    """
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def without_nan(value: Any) -> Any:
    """Return nested content with None for NaN and infinity, which JSON lacks; keys become text."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any) -> Any:
    """Return nested metrics that were read from JSON with NaN for each number that it lacked."""
    if isinstance(value, Mapping):
        return {name: with_nan(each) for name, each in value.items()}
    return math.nan if value is None else value
