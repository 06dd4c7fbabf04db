"""Files with a JSON object on each line, as several tasks are published, and their fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vilta.data.sources.base import listed
from vilta.data.sources.files import read_json
from vilta.data.sources.tables import decoded, is_json_list, lines_of
from vilta.json_text import parse_json


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file; ``ValueError`` names the line that is none."""
    items: list[dict[str, Any]] = []
    for number, line in enumerate(lines_of(decoded(path)), start=1):
        if not line.strip():
            continue
        try:
            item = parse_json(line)
        except ValueError:
            item = None
        if not isinstance(item, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        items.append(item)
    return items


def json_items(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one on each line, or with a list of them."""
    if not is_json_list(path):
        return json_lines(path)
    content = read_json(path)
    if other := [item for item in content if not isinstance(item, dict)]:
        raise ValueError(f"{path}: an item is not a JSON object; it is {str(other[0])[:40]!r}")
    return list(content)


def field(item: Any, name: str, path: str | Path) -> Any:
    """Return a field that every item must have."""
    if not isinstance(item, dict):
        raise ValueError(f"{path}: an item is not a JSON object; it is {str(item)[:40]!r}")
    if name not in item:
        raise ValueError(f"{path}: an item has no field {name!r}; it has {listed(item)}")
    return item[name]


def list_field(item: Any, name: str, path: str | Path) -> list[Any]:
    """Return a field that must be there and be a list."""
    found = field(item, name, path)
    if not isinstance(found, list):
        raise ValueError(f"{path}: the field {name!r} is not a list")
    return found
