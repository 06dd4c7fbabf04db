"""JSON that others may have written, or that a full disk has cut short."""

from __future__ import annotations

import json
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
