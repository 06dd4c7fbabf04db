"""Kill training and packing at random moments; what goes on must end as if nothing had happened.

    python reliability/kill_and_resume.py --kills 300      # about 30 minutes on two cores
    python reliability/kill_and_resume.py --kills 20       # a minute or two

A run of a small model on the built-in scenes is killed by SIGKILL, at any moment or inside a save,
an evaluation or a release, and started again by the same command (`--run.resume auto`), until it
is through. Its released weights, its checkpoints and its metrics must then be those of a run that
nobody disturbed, byte for byte. A third of the kills falls on a pack. The first difference ends the
program with an error and leaves both folders.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import mmap
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from results import write_result
from tiny_settings import model_settings, text_settings, write_image_encoder

from vilta.commands import pretrain, pretrain_text
from vilta.config import (
    DataConfig,
    ObjectiveConfig,
    OptimizationConfig,
    PretrainConfig,
    RunConfig,
)
from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack
from vilta.training import checkpoint
from vilta.training.session import Session

TRAIN, VAL = "scenes:40?seed=0&size=32", "scenes:12?seed=1&size=32"
PACKED = "scenes:400?seed=0&size=32"
PLACES = ["anywhere", "save", "evaluation", "release", "pack"]
LONGEST = 300
"""Seconds after which a child that hangs shows where, and fails."""
CLOCK = {"seconds", "samples_per_s"}
where = mmap.mmap(-1, 1)
"""The place of ``PLACES`` that the child is in, seen by its parent."""


def settings_of(folder: Path) -> PretrainConfig:
    """Train the small language model, and return the settings of the run that is killed.

    A child trains: this process only imports, so that its children inherit no threads.
    """
    text = text_settings(TRAIN, folder / "text", precision="float32")
    os.waitpid(in_child(lambda: pretrain_text.run(text), folder / "text"), 0)
    return PretrainConfig(
        data=DataConfig(train=TRAIN, val=VAL, image_size=32, workers=0),
        model=model_settings(write_image_encoder(folder), str(folder / "text" / "model")),
        objective=ObjectiveConfig(mlm_start=2, itm_start=4),
        optimization=OptimizationConfig(steps=9, batch_size=8, lr=1e-3, precision="float32"),
        run=RunConfig(
            log_every=1, save_every=2, evaluate_every=3, keep=1, device="cpu", resume="auto"
        ),
    )


def watched(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that shows where the process is while it runs."""

    @wraps(function)
    def shown(*arguments: Any, **names: Any) -> Any:
        before, where[0] = where[0], PLACES.index(place)
        try:
            return function(*arguments, **names)
        finally:
            where[0] = before

    return shown


def in_child(work: Callable[[], Any], out: Path) -> int:
    """Start ``work`` in a process of its own; what it prints goes to a file beside ``out``."""
    where[0] = 0
    child = os.fork()
    if child:
        return child
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    faulthandler.dump_traceback_later(LONGEST, exit=True)
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def killed(child: int, place: str, seconds: float) -> str | None:
    """Kill a child after a time, or that long after it came to a place.

    Returns where it was hit, None if it ended before that; raises if it failed.
    """
    wanted, began, came = PLACES.index(place), time.monotonic(), None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"a child failed with status {status}; its log tells why")
            return None
        now = time.monotonic()
        if came is None and (place in ("anywhere", "pack") or where[0] == wanted):
            came = now if place not in ("anywhere", "pack") else began
        if came is not None and now - came >= seconds:
            hit = PLACES[where[0]]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return hit if place != "pack" else "pack"
        time.sleep(0.001)


def content_of(folder: Path) -> dict[str, Any]:
    """Return what must be equal: every file's bytes, but for clocks and what TensorBoard writes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {k: v for k, v in line.items() if k not in CLOCK}
                for line in lines
                if "device" not in line
            ]
        elif name == "config.yaml" or "tensorboard" in name or path.name == "clock.json":
            continue
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def compare(whole: Path, out: Path) -> None:
    """End the program if two folders differ."""
    expected, found = content_of(whole), content_of(out)
    for name in sorted(expected.keys() | found.keys()):
        one, two = expected.get(name), found.get(name)
        if isinstance(one, bytes) and isinstance(two, bytes):  # a model card tells its folder
            one, two = (x.replace(str(f).encode(), b"") for x, f in ((one, whole), (two, out)))
        if one != two:
            raise SystemExit(f"{name} of {out} differs from {whole}")


def disturb(folder: Path, config: PretrainConfig, random: random.Random, kills: int) -> Counter:
    """Kill runs and packs until there were ``kills``; return how often each place was hit."""
    hits: Counter[str] = Counter()
    # The same last name: it stands in a model card.
    out, whole = folder / "killed" / "out", {k: folder / k / "out" for k in ("run", "pack")}
    out.parent.mkdir()
    longest = {}
    for kind, target in whole.items():
        target.parent.mkdir()
        began = time.monotonic()
        os.waitpid(in_child(lambda: work(kind, config, target), target), 0)  # noqa: B023
        longest[kind] = time.monotonic() - began
    while hits.total() < kills:
        kind = "pack" if random.random() < 1 / 3 else "run"
        shutil.rmtree(out, ignore_errors=True)
        finished = False
        while not finished:
            place = "pack" if kind == "pack" else random.choice(PLACES[:4])
            share = longest[kind] if place in ("anywhere", "pack") else 0.05
            child = in_child(lambda: work(kind, config, out), out)  # noqa: B023
            hit = killed(child, place, random.random() * share)
            hits.update([hit] if hit else [])
            finished = hit is None
        compare(whole[kind], out)
        print(f"{hits.total()} of {kills} kills", flush=True)
    return hits


def work(kind: str, config: PretrainConfig, out: Path) -> None:
    """Do what is killed: the same call whether it begins or goes on."""
    if kind == "pack":
        if not out.exists():
            pack(PACKED, PackConfig(out=str(out), shard_rows=25, workers=1))
        return
    pretrain.run(replace(config, run=replace(config.run, out=str(out))))


def main() -> None:
    """Kill as often as was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    began, folder = time.time(), Path(tempfile.mkdtemp(prefix="kills-"))
    config = settings_of(folder)
    checkpoint.save_checkpoint = watched("save", checkpoint.save_checkpoint)
    Session._write_model = watched("release", Session._write_model)
    Session.evaluate_if_due = watched("evaluation", Session.evaluate_if_due)
    hits = disturb(folder, config, random.Random(arguments.seed), arguments.kills)
    figures = {"kills": hits.total(), "hit": dict(hits), "seed": arguments.seed, "differences": 0}
    write_result(f"kill_and_resume-{arguments.kills}", began, figures)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
