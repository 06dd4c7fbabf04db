"""Files with a JSON object on each line, as several tasks are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file; ``ValueError`` names the line that is none."""
    items: list[dict[str, Any]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        items.append(item)
    return items


def field(item: dict[str, Any], name: str, path: str) -> Any:
    """Return a field that every item must have."""
    if name not in item:
        raise ValueError(f"{path}: an item has no field {name!r}; it has {', '.join(item)}")
    return item[name]
