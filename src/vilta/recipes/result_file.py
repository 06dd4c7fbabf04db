"""Where the figures of an evaluation are kept, and what is told of them."""

from __future__ import annotations

import json
import re
from pathlib import Path


def result_path(folder: str, name: str, data: str) -> Path:
    """Return the file for figures on ``data``: no other data of the same run are kept in it.

    ``runs/mine/evaluation-val.json`` for ``data/val``; where that holds the figures on another
    folder called ``val``, the name tells the whole path.
    """
    place, _, query = data.partition("?")
    last = Path(place).stem + (f"-{query}" if query else "")
    short, whole = (Path(folder) / f"{_plain(name)}-{_plain(text)}.json" for text in (last, data))
    return whole if _holds_other(short, data) else short


def blanks_told(blanks: int, total: int) -> str:
    """Say that figures count items that could not be shown."""
    return (
        f"note: {blanks:,} of {total:,} items cannot be read and count with a blank image; "
        "warnings above name them"
    )


def _holds_other(path: Path, data: str) -> bool:
    """Whether a file holds an evaluation on other data."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(result, dict) and result.get("data", data) != data


def _plain(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text)
