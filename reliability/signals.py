"""Ask commands to stop at random moments; each must end within 5 seconds, a second signal at once.

    python reliability/signals.py --moments 40      # a few minutes
    python reliability/signals.py --short           # 8 moments

Ctrl-C, SIGTERM and SIGHUP reach a pre-training (anywhere, in a save, an evaluation, a release), an
evaluation of a finished run, and a pack. Beside the seconds on the clock stand those of the
processor, which depend little on what else the machine does, and the machine's load.

On any machine: a command ends with the signal's exit status, or with 0 if it had done its work; a
pre-training begins no step after the one in which it was asked; and what the same command ends
with, the next time, is what a command ends with that nobody disturbed, byte for byte. The bounds in
seconds are for the long form; the short one allows ten times as much (``results.SLOWER``).

A command is a fork of this process that goes through ``vilta.cli.main``, as the program does.
"""

from __future__ import annotations

import argparse
import logging
import mmap
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kill_and_resume import PACKED, PLACES, VAL, compare, in_child, settings_of, watched, where
from results import SLOWER, add_short, write_result

from vilta.cli import main as command
from vilta.commands import evaluate, pack  # noqa: F401  (so that no child imports them)
from vilta.config.yaml_file import save_yaml
from vilta.training import checkpoint
from vilta.training.session import Session
from vilta.training.stopping import SECOND_AFTER, StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ENDS, AT_ONCE = 5.0, 0.5
"""Seconds after a first and after a second signal; of the processor's time on a loaded machine."""
ENDING = 0.5
"""Seconds of the processor's time within which a command that ends well had done its work, and only
written or said what came of it, when it was asked."""
HANGS = 60.0
"""Seconds on the clock after which a command that was asked hangs."""
READY, TAKEN, ASKED = range(3)
NEVER = 255
told = mmap.mmap(-1, 3)
"""What a child tells its parent: that it has begun, the steps it has taken, and how many those were
when it was asked."""


def run_command(line: str, out: Path) -> int:
    """Start a command in a child, and return its process."""

    def work() -> None:
        for number in SIGNALS:  # as in a terminal, however this program was started
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = shlex.split(line)
        try:
            told[READY] = 1
            command()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        except KeyboardInterrupt:  # before or after what the command itself catches
            os._exit(128 + signal.SIGINT)

    told[:] = bytes([0, 0, NEVER])
    return in_child(work, out)


def counted() -> None:
    """Let children tell how many steps they have taken, and how many when they were asked."""
    step, ask = Session.step, StopRequest._ask

    def counted_step(session: Session, *arguments: Any) -> bool:
        stopping = step(session, *arguments)
        told[TAKEN] = session.state.step
        return stopping

    def counted_ask(stop: StopRequest, *arguments: Any) -> None:
        told[ASKED] = min(told[ASKED], told[TAKEN])
        ask(stop, *arguments)

    Session.step = counted_step  # type: ignore[assignment]
    StopRequest._ask = counted_ask  # type: ignore[assignment]


def asked(
    line: str, out: Path, place: str, share: float, longest: float, slower: float
) -> dict[str, Any] | None:
    """Send a signal to a command at a moment, and a second one in a third of the trials.

    Returns what came of it; None if the command had ended before.
    """
    number, twice = random.choice(SIGNALS), random.random() < 1 / 3
    child, came = run_command(line, out), None
    after = share * (longest if place == "anywhere" else 0.05)
    while not told[READY]:
        time.sleep(0.001)
    while came is None or time.monotonic() - came < after:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        if came is None and (place == "anywhere" or where[0] == PLACES.index(place)):
            came = time.monotonic()
        time.sleep(0.001)
    hit, spent = PLACES[where[0]], processor_time(child)
    asked_at = time.monotonic()
    os.kill(child, number)
    first = until_end(child, SECOND_AFTER + 0.5 if twice else HANGS * slower)
    second = None
    if first is None and twice:
        spent, asked_at = processor_time(child), time.monotonic()
        os.kill(child, number)
        second = until_end(child, HANGS * slower)
    status = first or second
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise SystemExit(f"{line}: not ended {HANGS * slower:.0f} s after {number.name}, in {hit}")
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
        "steps_after": max(0, told[TAKEN] - told[ASKED]),
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
    """Train a small language model, and return the commands, each with OUT for its folder."""
    save_yaml(settings_of(folder), folder / "run.yaml")
    return {
        "pretrain": f"vilta pretrain {folder}/run.yaml --run.out OUT",
        "evaluate": f"vilta evaluate OUT --data {VAL} --device cpu --precision float32",
        "pack": f"vilta pack {PACKED} --out OUT --shard-rows 25 --workers 1",
    }


def prepare(name: str, folder: Path, out: Path) -> None:
    """Make room for a command's results; a run that is evaluated is there before."""
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    if name == "evaluate":
        shutil.copytree(folder / "pretrain" / "out", out)


def whole(line: str, log: Path) -> float:
    """Run a command to its end, and return its seconds."""
    began = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(run_command(line, log), 0)[1])
    if code:
        said = log.with_name(f"{log.name}.log").read_text()
        raise SystemExit(f"{line} ended with {code}:\n{said}")
    return time.monotonic() - began


def broken(found: dict[str, Any], slower: float) -> bool:
    """Tell whether what came of a signal is not as it should be."""
    number = signal.Signals[found["signal"]]
    seconds, code = found["processor_seconds"] / slower, found["status"]
    late = seconds > (AT_ONCE if found["asked"] == "twice" else ENDS)
    lost = code == 0 and found["place"] != "release" and seconds > ENDING
    # Before it has handlers a command ends by the signal itself.
    return late or lost or found["steps_after"] > 1 or code not in (0, 128 + number, -number)


def main() -> None:
    """Ask as often as was wished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    add_short(parser)
    arguments = parser.parse_args()
    moments, slower = (8, SLOWER) if arguments.short else (arguments.moments, 1.0)
    logging.disable(logging.WARNING)
    random.seed(arguments.seed)
    began, folder = time.time(), Path(tempfile.mkdtemp(prefix="signals-"))
    commands = lines_of(folder)
    checkpoint.save_checkpoint = watched("save", checkpoint.save_checkpoint)
    Session._write_model = watched("release", Session._write_model)
    Session.evaluate_if_due = watched("evaluation", Session.evaluate_if_due)
    counted()
    out, log, longest = folder / "asked" / "out", folder / "log", {}
    for name, line in commands.items():
        undisturbed = folder / name / "out"  # the same last name: it stands in a model card
        prepare(name, folder, undisturbed)
        longest[name] = whole(line.replace("OUT", str(undisturbed)), log)
    kinds = [("pretrain", place) for place in PLACES[:4]] + [
        ("evaluate", "anywhere"),
        ("pack", "anywhere"),
    ]
    each: list[dict[str, Any]] = []
    while len(each) < moments:
        name, place = kinds[len(each) % len(kinds)]
        line = commands[name].replace("OUT", str(out))
        prepare(name, folder, out)
        found = asked(line, log, place, random.random(), longest[name], slower)
        if found is None:
            continue
        each.append(found)
        print(found, file=sys.stderr, flush=True)
        if found["status"] and (name != "pack" or not out.exists()):
            whole(line, log)
        compare(folder / name / "out", out)
    bad = [found for found in each if broken(found, slower)]
    figures: dict[str, Any] = {"moments": len(each), "seed": arguments.seed}
    for times in ("once", "twice"):
        for unit in ("seconds", "processor_seconds"):
            figures[f"{times}_longest_{unit}"] = max(
                (found[unit] for found in each if found["asked"] == times), default=None
            )
    name = "signals" if arguments.short else f"signals-{moments}"
    write_result(name, began, {**figures, "each": each}, arguments.short)
    shutil.rmtree(folder)
    if bad:
        raise SystemExit(f"not as it should be: {bad}")


if __name__ == "__main__":
    main()
