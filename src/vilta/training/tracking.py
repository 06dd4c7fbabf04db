"""Progress of a run: a live line on screen, ``metrics.jsonl`` and TensorBoard events.

Of what a task reports, names without a slash and names that start with ``loss/`` are losses and
shown on screen; others, such as ``negatives/share``, are statistics and only written.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from torch.utils.tensorboard import SummaryWriter

from vilta.json_text import parse_json, without_nan
from vilta.screen import draws_bars, notes
from vilta.training.folder import EVENTS, METRICS, replace_text

PLAIN_SECONDS = 15.0
"""Seconds between two lines where the output is not a terminal. Our choice."""
MANY_EPOCHS = 1000
"""Passes over the data from which the number of steps is doubted (our choice)."""


class Tracker:
    """Writes and shows what happens; on every process but the main one it does nothing."""

    def __init__(self, folder: Path, *, start: int, steps: int, main: bool) -> None:
        """Open the run's files; lines after step ``start`` are of an abandoned attempt and go."""
        self.main, self.start, self.steps = main, start, steps
        self.folder = folder
        self._console = notes
        self._shown = ""
        self._said = -math.inf

    def __enter__(self) -> Tracker:
        if not self.main:
            return self
        _drop_lines_after(self.folder / METRICS, self.start)
        self._lines = (self.folder / METRICS).open("a", encoding="utf-8")
        purge = self.start + 1 if self.start else None
        self._events = SummaryWriter(str(self.folder / EVENTS), purge_step=purge)
        self._live = Progress(
            *live_columns(),
            console=self._console,
            disable=not draws_bars(),
            expand=True,
        )
        self._bar = self._live.add_task(
            "", total=self.steps, completed=self.start, left="", shown=""
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.main:
            self._live.stop()
            self._lines.close()
            self._events.close()

    def say(self, text: str) -> None:
        """Show a line of text above the live one."""
        if self.main:
            self._live.console.print(text)

    def machine(self, step: int, device: str, precision: str) -> None:
        """Write what the steps after ``step`` are computed on."""
        if self.main:
            self._write({"step": step, "device": device, "precision": precision})

    def epochs(self, samples: int, batch: int) -> None:
        """Say how often ``samples`` (0: not known) will be seen in steps of ``batch``."""
        if samples:
            epochs = self.steps * batch / samples
            many = ": many times what teaches anything new" if epochs > MANY_EPOCHS else ""
            digits = ",.1f" if epochs >= 0.1 else ".2g"
            self.say(f"{epochs:{digits}} epochs of {samples:,} training samples{many}")
        if 0 < samples < batch:
            self.say(
                f"a step takes {batch} samples, more than the {samples} there are: they stand in "
                "it more than once; lower --optimization.batch-size"
            )

    def progress(self, step: int, seconds: float) -> None:
        """Move the live line to ``step``, with ``seconds`` left; a plain line where there is none.

        Without a terminal, a line comes every ``PLAIN_SECONDS``.
        """
        if not self.main:
            return
        left = f"{_duration(seconds)} left"
        if draws_bars():
            self._live.update(self._bar, completed=step, left=left, shown=self._shown.strip())
        elif time.monotonic() - self._said > PLAIN_SECONDS or step == self.steps:
            self._said = time.monotonic()
            self.say(f"step {step}/{self.steps}{self._shown}  {left}")

    def log(self, step: int, losses: dict[str, float], pace: dict[str, float]) -> None:
        """Write the means since the last call; ``pace`` holds at least ``samples_per_s``."""
        if not self.main:
            return
        self._write({"step": step, **losses, **pace})
        for name, value in (losses | pace).items():
            self._events.add_scalar(_event(name, "train"), value, step)
        names = [n for n in losses if "/" not in n or n.startswith("loss/")]
        words = [f"{n.removeprefix('loss/')} {losses[n]:.3f}" for n in names]
        self._shown = "  " + "  ".join([*words, f"{pace['samples_per_s']:.0f} samples/s"])

    def evaluation(
        self, step: int, metrics: dict[str, float], pictures: dict[str, np.ndarray]
    ) -> None:
        """Write and show the metrics of an evaluation; ``pictures`` are uint8 ``[3, H, W]``."""
        if not self.main:
            return
        self._write({"step": step, "evaluation": metrics})
        for name, value in metrics.items():
            self._events.add_scalar(_event(name, "evaluation"), value, step)
        for name, picture in pictures.items():
            self._events.add_image(name, picture, step)
        self._events.flush()
        groups: dict[str, list[str]] = {}
        for name, value in metrics.items():
            group = _group(name, metrics)
            last = name.removeprefix(f"{group}/")
            groups.setdefault(group or "metrics", []).append(f"{last} {value:.4g}")
        lines = [f"  {group:36}  {'  '.join(shown)}" for group, shown in groups.items()]
        self.say("\n".join([f"step {step}, evaluation", *lines]))

    def skipped(self, step: int, names: list[str]) -> None:
        """Write and show that a step was skipped, and on which samples."""
        if not self.main:
            return
        self._write({"step": step, "skipped": names})
        self.say(f"step {step}: loss or gradient is not finite, step skipped")

    def _write(self, line: dict[str, Any]) -> None:
        """Append one line; JSON has no NaN, so such a metric becomes null."""
        self._lines.write(json.dumps(without_nan(line)) + "\n")
        self._lines.flush()


def live_columns() -> list[ProgressColumn]:
    """Return the columns of the live line: where it is narrow, the losses are cut first."""
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    return [
        TextColumn("step", table_column=whole),
        MofNCompleteColumn(table_column=whole.copy()),
        BarColumn(bar_width=16, table_column=whole.copy()),
        TextColumn("{task.fields[left]}", markup=False, table_column=whole.copy()),
        TextColumn("{task.fields[shown]}", markup=False, table_column=rest),
    ]


def _group(name: str, metrics: Collection[str]) -> str:
    """Return what a metric is shown under: another metric that it is a part of, or its prefix.

    A part has the name of a label or kind, in which a slash separates nothing: ``accuracy/yes/no``.
    """
    prefixes = (name[:end] for end, letter in enumerate(name) if letter == "/")
    return next((p for p in prefixes if p in metrics), name.rpartition("/")[0])


def _drop_lines_after(path: Path, step: int) -> None:
    """Cut from a ``metrics.jsonl`` what a resumed run will write again, or a torn last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if parse_json(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    replace_text(path, "".join(kept))


def _event(name: str, group: str) -> str:
    """Return the TensorBoard tag of a metric; a name with a slash brings its own group."""
    return name if "/" in name else f"{group}/{name}"


def _duration(seconds: float) -> str:
    """Return a duration for people: 42 s, 7 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
