"""Names of metrics: nested groups as one flat dictionary."""

from __future__ import annotations

from typing import Any


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Join nested names with slashes: ``{"a": {"b": 1}}`` becomes ``{"a/b": 1}``."""
    result: dict[str, float] = {}
    for name, value in metrics.items():
        key = f"{prefix}{name}"
        result |= flat(value, f"{key}/") if isinstance(value, dict) else {key: value}
    return result
