"""Train for hours, and watch: memory must stay flat, and no file handle may be lost.

    python reliability/soak.py --minutes 120
    python reliability/soak.py --short

`vilta pretrain` trains a tiny model on packed scenes, with loader processes, an evaluation and a
checkpoint every few seconds. A sample of the whole family of processes is taken every few seconds
from /proc (Linux). When the time is over the run gets SIGTERM, and must end within five seconds;
then the same command goes on from the step at which it was stopped.

The bounds, set before anything was measured: from the second quarter to the last, the median of the
resident memory may grow by 16 MB, or by 32 MB an hour where that is more; the number of open
files and of threads may not grow at all. The first quarter is start-up and does not count.

The short form counts steps, not minutes: what it measures does not depend on how fast they are. It
evaluates and saves far oftener. From the second quarter of its steps to the last the memory of the
processes that live through both may grow by a quarter of a megabyte a step, the least number of
open files by 12, and that of threads by 5: it sees what each step or checkpoint leaves behind, and
no slow leak. (The memory of the whole family would depend on when a sample is taken: the loader
processes of an evaluation come and go within a second, with a third of it.)
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from results import SLOWER, add_short, write_result
from tiny_settings import write_image_encoder

TRAIN, VAL = "scenes:400?seed=0&size=32", "scenes:24?seed=1&size=32"
EVERY, SHORT_EVERY = 2.0, 0.5
"""Seconds between two samples."""
LEAST_GROWTH, GROWTH_AN_HOUR = 16.0, 32.0
"""Megabytes; the larger of the two bounds is used."""
EVERY_STEPS = {"log_every": 10, "save_every": 50, "evaluate_every": 100}
SHORT_EVERY_STEPS = {"log_every": 1, "save_every": 5, "evaluate_every": 15}
SHORT_STEPS, GROWTH_A_STEP = 300, 0.25
"""Steps of the short form, and the megabytes that each may add."""
WAITING_FILES, SHORT_THREADS = 12.0, 5.0
"""How many more files and threads may be open after the 10 evaluations and 30 checkpoints between
the two quarters of the short form. A batch that waits to be used holds files: 8 more or fewer."""
EXIT_SECONDS = 5.0
HANGS = 120.0
"""Seconds without a step after which a run hangs."""
PRETRAIN = """
data: {{train: {folder}/train, val: {folder}/val, image_size: 32, workers: {workers}}}
model:
  image: {folder}/image.json
  text: {folder}/text/model
  fusion_layers: 1
  fusion_width: 16
  fusion_heads: 2
  contrastive_width: 8
objective: {{mlm_start: 0, itm_start: 0}}
optimization: {{steps: 100000000, batch_size: 8, lr: 0.0001, precision: float32}}
run:
  out: {folder}/run
  device: cpu
  resume: auto
  log_every: {log_every}
  save_every: {save_every}
  evaluate_every: {evaluate_every}
  keep: 2
"""

Sample = dict[str, Any]
Summary = Callable[[Iterator[float]], float]


def vilta(*arguments: str) -> None:
    """Run a command of vilta to its end."""
    subprocess.run([sys.executable, "-m", "vilta", *arguments], check=True, stdout=sys.stderr)


def prepare(folder: Path, workers: int, short: bool) -> None:
    """Write the data, the language model and the config of the run."""
    write_image_encoder(folder)
    vilta("pack", TRAIN, "--out", str(folder / "train"))
    vilta("pack", VAL, "--out", str(folder / "val"))
    text = f"""
data: {{train: {folder}/train, workers: 0}}
model: {{vocabulary: 400, width: 16, layers: 1, heads: 2}}
optimization: {{steps: 4, batch_size: 16, precision: float32}}
run: {{out: {folder}/text, device: cpu, selection_metric: text/top1}}
"""
    (folder / "text.yaml").write_text(text)
    vilta("pretrain-text", str(folder / "text.yaml"))
    config = PRETRAIN.format(
        folder=folder,
        workers=workers,
        **(SHORT_EVERY_STEPS if short else EVERY_STEPS),
    )
    (folder / "soak.yaml").write_text(config)


def family(pid: int) -> list[int]:
    """Return a process and those that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid] + [other for child in children for other in family(int(child))]


def sample(pid: int) -> Sample:
    """Return megabytes, open files and threads of the family, and megabytes of its first process.

    Memory is the proportional set size of anonymous pages: what loader processes share counts once,
    and libraries do not count, whose share falls and rises with the other programs of the machine.
    ``process_mb`` has the anonymous pages of each process by its id, shared or not: no other
    process that comes or ends changes them.
    """
    found: Sample = {"mb": 0.0, "first_mb": 0.0, "files": 0.0, "threads": 0.0, "process_mb": {}}
    for member in family(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            files = len(os.listdir(f"/proc/{member}/fd"))
            threads = len(os.listdir(f"/proc/{member}/task"))
        except OSError:  # it has just ended
            continue
        kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE))
        found["mb"] += int(kilobytes["Pss_Anon"]) / 1024
        found["process_mb"][member] = int(kilobytes["Anonymous"]) / 1024
        if member == pid:
            found["first_mb"] = found["mb"]
        found["files"] += files
        found["threads"] += threads
    return found


def saved_step(run: Path) -> int:
    """Return the step of a run's newest checkpoint."""
    return max(int(path.name[len("step-") :]) for path in (run / "checkpoints").glob("step-*"))


def last_step(run: Path) -> int:
    """Return the last step that a run has logged."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith("\n")]
    return max((json.loads(line).get("step", 0) for line in whole[-10:]), default=0)


def watch(
    folder: Path,
    over: Callable[[float, int], bool],
    every: float,
    slower: float,
) -> tuple[list[Sample], int, float]:
    """Run a command until ``over`` (seconds, step) says so, and ask it to end.

    Returns the samples, its exit status, and its seconds to end.
    """
    command = [sys.executable, "-m", "vilta", "pretrain", str(folder / "soak.yaml")]
    with open(folder / "log", "ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    began = moved = time.monotonic()
    step, samples = last_step(folder / "run"), []
    while not over(time.monotonic() - began, step):
        time.sleep(every)
        if child.poll() is not None:
            said = (folder / "log").read_text()[-4000:]
            raise SystemExit(f"the run ended by itself with {child.returncode}:\n{said}")
        before, step = step, last_step(folder / "run")
        moved = moved if step == before else time.monotonic()
        if time.monotonic() - moved > HANGS * slower:
            child.kill()
            raise SystemExit(f"no step after step {step} for {HANGS * slower:.0f} s")
        samples.append({"s": round(time.monotonic() - began, 1), "step": step, **sample(child.pid)})
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    return samples, child.wait(60 * slower), time.monotonic() - asked


def judged(samples: list[Sample]) -> tuple[dict[str, object], list[str]]:
    """Return the figures of the samples of a long form, and which bounds they break."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    hours = (samples[-1]["s"] - samples[quarter]["s"]) / 3600
    settled = samples[quarter:]
    slope = np.polyfit([s["s"] / 3600 for s in settled], [s["mb"] for s in settled], 1)[0]
    growth = max(LEAST_GROWTH, GROWTH_AN_HOUR * hours)
    bounds = {"mb": growth, "first_mb": growth, "files": 0.0, "threads": 0.0}
    figures, broken = compared(second, last, bounds, dict.fromkeys(bounds, statistics.median))
    return {"mb_an_hour": round(float(slope), 2), **figures}, broken


def judged_short(samples: list[Sample]) -> tuple[dict[str, object], list[str]]:
    """Return the figures of the samples of a short form, and which bounds they break."""
    quarter = SHORT_STEPS // 4
    second = [s for s in samples if quarter <= s["step"] < 2 * quarter]
    last = [s for s in samples if 3 * quarter <= s["step"]]
    lasting = set.intersection(*(set(s["process_mb"]) for s in second + last))
    for s in second + last:
        s["lasting_mb"] = sum(s["process_mb"][process] for process in lasting)
    growth = GROWTH_A_STEP * 2 * quarter
    bounds = {"lasting_mb": growth, "files": WAITING_FILES, "threads": SHORT_THREADS}
    summaries: dict[str, Summary] = {"lasting_mb": statistics.median, "files": min, "threads": min}
    figures, broken = compared(second, last, bounds, summaries)
    return {"lasting_processes": len(lasting), **figures}, broken


def compared(
    second: list[Sample],
    last: list[Sample],
    bounds: dict[str, float],
    summaries: dict[str, Summary],
) -> tuple[dict[str, object], list[str]]:
    """Return each figure before and after, and which have grown by more than their bounds."""
    figures: dict[str, object] = {}
    broken = []
    for name, bound in bounds.items():
        before, after = (summaries[name](s[name] for s in part) for part in (second, last))
        figures[name] = {"before": round(before, 1), "after": round(after, 1), "may_grow": bound}
        if after - before > bound:
            broken.append(f"{name} grew from {before:,.1f} to {after:,.1f}")
    return figures, broken


def main() -> None:
    """Soak, and end with an error where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1)
    add_short(parser)
    arguments = parser.parse_args()
    short, slower = arguments.short, SLOWER if arguments.short else 1.0
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        prepare(folder, arguments.workers, short)
        samples, code, seconds = watch(
            folder,
            lambda s, step: step >= SHORT_STEPS if short else s >= 60 * arguments.minutes,
            SHORT_EVERY if short else EVERY,
            slower,
        )
        steps = saved_step(folder / "run")
        # What goes on logs a step, so ends by itself, in watch, if it cannot.
        _, again, _ = watch(folder, lambda _, step: step > steps, EVERY, slower)
        went_on = f"from step {steps} to" in (folder / "log").read_text()
        figures, broken = judged_short(samples) if short else judged(samples)
    if {code, again} != {128 + signal.SIGTERM}:
        broken.append(f"exit status {code}, and {again} of the run that went on")
    if not went_on:
        broken.append(f"no run went on from step {steps}")
    if seconds > EXIT_SECONDS * slower:
        broken.append(f"{seconds:.1f} s from SIGTERM to the end")
    kept = samples[:: max(1, len(samples) // 60)]
    trail = [f"{s['s']:.0f} s: {s['mb']:.0f} MB, {s['files']:.0f} files" for s in kept]
    whole = {
        "soak_minutes": "short" if short else arguments.minutes,
        "steps": steps,
        "samples": len(samples),
        "load": round(os.getloadavg()[1], 1),
        **figures,
        "exit_status": code,
        "seconds_to_exit": round(seconds, 2),
        "went_on": went_on,
        "broken": broken,
        "trail": trail,
    }
    write_result("soak" if short else f"soak-{arguments.minutes:g}", began, whole, short)
    if broken:
        raise SystemExit("; ".join(broken))


if __name__ == "__main__":
    main()
