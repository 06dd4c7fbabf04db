"""Ask commands to stop at random moments; each must end within 5 seconds, a second signal at once.

    python reliability/signals.py --moments 40      # a few minutes

Ctrl-C, SIGTERM and SIGHUP reach a pre-training (anywhere, in a save, an evaluation, a release), an
evaluation of a finished run, and a pack. Beside the seconds on the clock stand those of the
processor, which do not depend on what else the machine does, and the machine's load.

A command is a fork of this process that goes through ``vilta.cli.main``, as the program does.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kill_and_resume import PACKED, PLACES, VAL, in_child, settings_of, watched, where
from results import write_result

from vilta.cli import main as command
from vilta.commands import evaluate, pack  # noqa: F401  (so that no child imports them)
from vilta.config.yaml_file import save_yaml
from vilta.training import checkpoint
from vilta.training.session import Session
from vilta.training.stopping import SECOND_AFTER

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ENDS, AT_ONCE = 5.0, 0.5
"""Seconds after a first and after a second signal; of the processor's time on a loaded machine."""
ENDING = 0.5
"""Seconds of the processor's time within which a command that ends well had done its work, and only
written or said what came of it, when it was asked."""


def run_command(line: str, out: Path) -> int:
    """Start a command in a child, and return its process."""

    def work() -> None:
        for number in SIGNALS:  # as in a terminal, however this program was started
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = shlex.split(line)
        try:
            command()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)

    return in_child(work, out)


def asked(line: str, out: Path, place: str, share: float, longest: float) -> dict[str, Any] | None:
    """Send a signal to a command at a moment, and a second one in a third of the trials.

    Returns what came of it; None if the command had ended before.
    """
    number, twice = random.choice(SIGNALS), random.random() < 1 / 3
    child, came = run_command(line, out), None
    after = share * (longest if place == "anywhere" else 0.05)
    while came is None or time.monotonic() - came < after:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        if came is None and (place == "anywhere" or where[0] == PLACES.index(place)):
            came = time.monotonic()
        time.sleep(0.001)
    hit, spent = PLACES[where[0]], processor_time(child)
    asked_at = time.monotonic()
    os.kill(child, number)
    first = until_end(child, SECOND_AFTER + 0.5 if twice else 60.0)
    second = None
    if first is None and twice:
        spent, asked_at = processor_time(child), time.monotonic()
        os.kill(child, number)
        second = until_end(child, 60.0)
    status = first or second
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise SystemExit(f"{line}: not ended a minute after {number.name}, in {hit}")
    seconds, (code, used) = time.monotonic() - asked_at, status
    return {
        "command": line.split()[1],
        "place": hit,
        "signal": number.name,
        "asked": "twice" if second else "once",
        "seconds": round(seconds, 2),
        "processor_seconds": round(used - spent, 2),
        "load": round(os.getloadavg()[0], 1),
        "status": code,
    }


def processor_time(process: int) -> float:
    """Return the seconds that a process has computed so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_end(child: int, seconds: float) -> tuple[int, float] | None:
    """Wait for a child; return its exit status and processor time, None if it goes on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        time.sleep(0.005)
    return None


def lines_of(folder: Path) -> dict[str, str]:
    """Train a small language model, and return the commands."""
    config = settings_of(folder)
    whole = folder / "whole"
    save_yaml(replace(config, run=replace(config.run, out=str(whole))), folder / "run.yaml")
    return {
        "pretrain": f"vilta pretrain {folder}/run.yaml --run.out {folder}/out",
        "evaluate": f"vilta evaluate {whole} --data {VAL} --device cpu",
        "pack": f"vilta pack {PACKED} --out {folder}/out --shard-rows 25 --workers 1",
    }


def lasts(line: str, out: Path) -> float:
    """Return the seconds that a command takes when nobody disturbs it."""
    began = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(run_command(line, out), 0)[1])
    if code:
        log = out.with_name(f"{out.name}.log").read_text()
        raise SystemExit(f"{line} ended with {code}:\n{log}")
    return time.monotonic() - began


def main() -> None:
    """Ask as often as was wished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    random.seed(arguments.seed)
    began, folder = time.time(), Path(tempfile.mkdtemp(prefix="signals-"))
    commands = lines_of(folder)
    checkpoint.save_checkpoint = watched("save", checkpoint.save_checkpoint)
    Session._write_model = watched("release", Session._write_model)
    Session.evaluate_if_due = watched("evaluation", Session.evaluate_if_due)
    longest = {"pretrain": lasts(commands["pretrain"].replace("/out", "/whole"), folder / "log")}
    for name in ("evaluate", "pack"):
        longest[name] = lasts(commands[name], folder / "log")
    kinds = [("pretrain", place) for place in PLACES[:4]] + [
        ("evaluate", "anywhere"),
        ("pack", "anywhere"),
    ]
    each: list[dict[str, Any]] = []
    while len(each) < arguments.moments:
        name, place = kinds[len(each) % len(kinds)]
        shutil.rmtree(folder / "out", ignore_errors=True)
        found = asked(commands[name], folder / "log", place, random.random(), longest[name])
        if found is not None:
            each.append(found)
            print(found, file=sys.stderr, flush=True)
    bad = [f for f in each if f["processor_seconds"] > (AT_ONCE if f["asked"] == "twice" else ENDS)]
    bad += [
        found
        for found in each
        if found["status"] == 0
        and found["place"] != "release"
        and found["processor_seconds"] > ENDING
    ]
    figures: dict[str, Any] = {"moments": len(each), "seed": arguments.seed}
    for times in ("once", "twice"):
        for unit in ("seconds", "processor_seconds"):
            figures[f"{times}_longest_{unit}"] = max(
                (found[unit] for found in each if found["asked"] == times), default=None
            )
    write_result(f"signals-{arguments.moments}", began, {**figures, "each": each})
    shutil.rmtree(folder)
    if bad:
        raise SystemExit(f"not as it should be: {bad}")


if __name__ == "__main__":
    main()
