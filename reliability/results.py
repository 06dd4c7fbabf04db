"""Where the programs of this folder keep their figures: one JSON each, with date and machine.

What a short form measures goes to a folder of its own, so it never replaces what a long one did.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SLOWER = 10.0
"""How many times slower than its long form's bounds allow a program may be in its short form, which
must tell what is true on any machine, however busy: the bounds in seconds are multiplied by it."""


def add_short(parser: argparse.ArgumentParser) -> None:
    """Give a program whose long form has bounds in seconds the flag of its short form."""
    parser.add_argument(
        "--short", action="store_true", help="minutes, with an outcome that no busy machine changes"
    )


def write_result(name: str, began: float, figures: dict[str, Any], short: bool = False) -> None:
    """Write the figures of a program that began at ``began`` (``time.time()``), and print them.

    Those of a short form that has a long one of the same name go to ``results/short``.
    """
    content = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "minutes": round((time.time() - began) / 60, 1),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "torch": version("torch"),
        **figures,
    }
    folder = RESULTS / "short" if short else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
