"""A full disk at many points of a save, and every damage to every file of a checkpoint.

    python reliability/checkpoints.py --points 50     # seconds; Linux

The disk is a real one: a tmpfs of its own name space, filled so that a save finds a given share of
the bytes it needs. It must fail with one line, leave nothing half written, and leave the checkpoint
before it whole. Then each file is truncated, flipped at many places, emptied, deleted and swapped:
the damage must be found, and the checkpoint before it be taken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from results import write_result
from torch import nn

from vilta.training.checkpoint import (
    RunState,
    find_checkpoint,
    load_state,
    save_checkpoint,
    whole_state,
)

FILES = ("model.safetensors", "optimizer.pt", "state.json", "SHA256SUMS")
FLIPS = 25
"""Flipped bits a file."""


def save(run: Path, step: int) -> Path:
    """Write a checkpoint of 1.5 MB whose content depends on the step."""
    torch.manual_seed(step)
    task = nn.Linear(350, 350)
    optimizer = torch.optim.AdamW(task.parameters())
    task(torch.randn(2, 350)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    state = RunState(fingerprint="d", vocabulary="v", seed=0, global_batch=1, step=step)
    return save_checkpoint(run, task, whole_state(optimizer, schedule), state, keep=5)


def full_disk(disk: Path, points: int) -> Counter[str]:
    """Save on a disk that is full after a growing share of the bytes; count how it went."""
    run, ballast = disk / "run", disk / "ballast"
    needed = sum(path.stat().st_size for path in save(run, 1).iterdir())
    outcomes: Counter[str] = Counter()
    for point in range(points):
        left = round(needed * (point + 0.5) / points)
        ballast.write_bytes(b"")
        with open(ballast, "wb") as file:
            space = os.statvfs(disk)
            file.write(bytes(max(0, space.f_bavail * space.f_frsize - left)))
        try:
            save(run, 2)
            outcomes["saved"] += 1
        except ValueError as error:
            assert "\n" not in str(error) and "step-00000001 is whole" in str(error), error
            outcomes["refused in a line"] += 1
        ballast.unlink()
        found, _, damaged = find_checkpoint(run)
        assert not damaged and not list(run.rglob(".tmp-*"))
        if found.name == "step-00000002":
            shutil.rmtree(found)
    return outcomes


def damages(path: Path, other: Path, chance: random.Random) -> dict[str, bytes | None]:
    """Return what may become of a file; None deletes it."""
    whole = path.read_bytes()
    found: dict[str, bytes | None] = {"empty": b"", "deleted": None, "swapped": other.read_bytes()}
    for share in (0.01, 0.5, 0.99):
        found[f"truncated to {share}"] = whole[: int(len(whole) * share)]
    for _ in range(FLIPS):
        at = chance.randrange(len(whole))
        flipped = bytes([whole[at] ^ (1 << chance.randrange(8))])
        found[f"flipped at {at}"] = whole[:at] + flipped + whole[at + 1 :]
    return found


def damaged_files(run: Path, seed: int) -> int:
    """Damage each file of the newest checkpoint in every way; return how often it was found."""
    before, newest = save(run, 1), save(run, 2)
    chance, count = random.Random(seed), 0
    for name in FILES:
        path = newest / name
        whole = path.read_bytes()
        for kind, content in damages(path, before / name, chance).items():
            path.unlink() if content is None else path.write_bytes(content)
            found, _, told = find_checkpoint(run)
            if found != before or len(told) != 1 or str(newest) not in told[0]:
                raise SystemExit(f"{name}, {kind}: not found, or not told: {told}")
            path.write_bytes(whole)
            count += 1
    load_state(newest)
    return count


def main() -> None:
    """Do both; the first part in a name space with a disk of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--disk", default="", help="used by the program itself")
    arguments = parser.parse_args()
    if arguments.disk:
        print(json.dumps(full_disk(Path(arguments.disk), arguments.points)))
        return
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        disk.mkdir()
        again = f"{sys.executable} {__file__} --points {arguments.points} --disk {disk}"
        command = f"mount -t tmpfs -o size=16m tmpfs {disk} && exec {again}"
        figures = {"damages_found": damaged_files(Path(folder, "run"), arguments.seed)}
        # Some machines let nobody but root mount a file system, not even one of their own.
        if subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
            print("not tried: a full disk, because `unshare -Urm` is not allowed here", flush=True)
        else:
            done = subprocess.run(
                ["unshare", "-Urm", "sh", "-c", command],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            figures["disk_full"] = json.loads(done.stdout)
    write_result("checkpoints", began, figures)


if __name__ == "__main__":
    main()
