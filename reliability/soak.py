"""Train for hours, and watch: memory must stay flat, and no file handle may be lost.

    python reliability/soak.py --minutes 120
    python reliability/soak.py --minutes 1

`vilta pretrain` trains a tiny model on packed scenes, with loader processes, an evaluation and a
checkpoint every few seconds. A sample of the whole family of processes is taken every few seconds
from /proc (Linux). When the time is over the run gets SIGTERM, and must end within five seconds.

The bounds, set before anything was measured: from the second quarter to the last, the median of the
resident memory may grow by 16 MB, or by 32 MB an hour where that is more; the number of open
files and of threads may not grow at all. The first quarter is start-up and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import write_result
from tiny_settings import write_image_encoder

TRAIN, VAL = "scenes:400?seed=0&size=32", "scenes:24?seed=1&size=32"
EVERY = 2.0
"""Seconds between two samples."""
LEAST_GROWTH, GROWTH_AN_HOUR = 16.0, 32.0
"""Megabytes; the larger of the two bounds is used."""
EXIT_SECONDS = 5.0
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
run: {{out: {folder}/run, device: cpu, log_every: 10, save_every: 50, evaluate_every: 100, keep: 2}}
"""


def vilta(*arguments: str) -> None:
    """Run a command of vilta to its end."""
    subprocess.run([sys.executable, "-m", "vilta", *arguments], check=True, stdout=sys.stderr)


def prepare(folder: Path, workers: int) -> Path:
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
    (folder / "soak.yaml").write_text(PRETRAIN.format(folder=folder, workers=workers))
    return folder / "soak.yaml"


def family(pid: int) -> list[int]:
    """Return a process and those that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid] + [other for child in children for other in family(int(child))]


def sample(pid: int) -> dict[str, float]:
    """Return megabytes, open files and threads of the family, and megabytes of its first process.

    Memory is the proportional set size of anonymous pages: what loader processes share counts once,
    and libraries do not count, whose share falls and rises with the other programs of the machine.
    """
    found = {"mb": 0.0, "first_mb": 0.0, "files": 0.0, "threads": 0.0}
    for member in family(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            files = len(os.listdir(f"/proc/{member}/fd"))
            threads = len(os.listdir(f"/proc/{member}/task"))
        except OSError:  # it has just ended
            continue
        pss = next(line for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
        found["mb"] += int(pss.split()[1]) / 1024
        if member == pid:
            found["first_mb"] = found["mb"]
        found["files"] += files
        found["threads"] += threads
    return found


def watch(
    command: list[str], minutes: float, log: Path
) -> tuple[list[dict[str, float]], int, float]:
    """Run a command for a time; return the samples, its exit status, and its seconds to end."""
    with open(log, "wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    began, samples = time.monotonic(), []
    while time.monotonic() - began < 60 * minutes:
        time.sleep(EVERY)
        if child.poll() is not None:
            raise SystemExit(f"the run ended by itself with {child.returncode}; {log} tells why")
        samples.append({"s": round(time.monotonic() - began, 1), **sample(child.pid)})
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    return samples, child.wait(60), time.monotonic() - asked


def judged(samples: list[dict[str, float]]) -> tuple[dict[str, object], list[str]]:
    """Return the figures of the samples, and which bounds they break."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    hours = (samples[-1]["s"] - samples[quarter]["s"]) / 3600
    settled = samples[quarter:]
    slope = np.polyfit([s["s"] / 3600 for s in settled], [s["mb"] for s in settled], 1)[0]
    figures: dict[str, object] = {"samples": len(samples), "mb_an_hour": round(float(slope), 2)}
    broken = []
    growth = max(LEAST_GROWTH, GROWTH_AN_HOUR * hours)
    bounds = {"mb": growth, "first_mb": growth, "files": 0.0, "threads": 0.0}
    for name, bound in bounds.items():
        before, after = (statistics.median(s[name] for s in part) for part in (second, last))
        figures[name] = {"before": round(before, 1), "after": round(after, 1), "may_grow": bound}
        if after - before > bound:
            broken.append(f"{name} grew from {before:,.1f} to {after:,.1f}")
    return figures, broken


def main() -> None:
    """Soak, and end with an error where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        config = prepare(folder, arguments.workers)
        command = [sys.executable, "-m", "vilta", "pretrain", str(config)]
        samples, code, seconds = watch(command, arguments.minutes, folder / "log")
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        steps = max(json.loads(line).get("step", 0) for line in lines)
        figures, broken = judged(samples)
    if code != 128 + signal.SIGTERM:
        broken.append(f"exit status {code}")
    if seconds > EXIT_SECONDS:
        broken.append(f"{seconds:.1f} s from SIGTERM to the end")
    whole = {"soak_minutes": arguments.minutes, "steps": steps, **figures}
    kept = samples[:: max(1, len(samples) // 60)]
    trail = [f"{s['s']:.0f} s: {s['mb']:.0f} MB, {s['files']:.0f} files" for s in kept]
    ended = {"exit_status": code, "seconds_to_exit": round(seconds, 2)}
    write_result(
        f"soak-{arguments.minutes:g}",
        began,
        {**whole, **ended, "broken": broken, "trail": trail},
    )
    if broken:
        raise SystemExit("; ".join(broken))


if __name__ == "__main__":
    main()
