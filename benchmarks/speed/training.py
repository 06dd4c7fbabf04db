"""How a finished run was trained, from its own log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_training(run: Path) -> dict[str, Any]:
    """Return ``steps``, ``epochs``, ``minutes`` and ``device`` of a run's training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "seconds" in line][-1]
    return {
        "steps": last["step"],
        "epochs": round(last["epoch"], 1),
        "minutes": round(last["seconds"] / 60, 1),
        "device": [line for line in lines if "device" in line][-1]["device"],
    }
