"""Console output of the commands: results to stdout; progress, notes and warnings to stderr.

``vilta -q`` hides everything but results and errors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

results = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
notes = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def say_next(*words: str) -> None:
    """Suggest the next command, quoted so that it can be pasted."""
    notes.print(f"next: {shlex.join(words)}")


def print_json(line: Mapping[str, Any]) -> None:
    """Print one line of JSON to stdout; NaN becomes null."""
    plain = {k: None if isinstance(v, float) and v != v else v for k, v in line.items()}
    results.file.write(json.dumps(plain, ensure_ascii=False) + "\n")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; call what it yields with the number done and the total."""
    columns = (TextColumn(what, markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True) as bar:
        line = bar.add_task("", total=None)
        yield lambda done, total: bar.update(line, completed=done, total=total)
