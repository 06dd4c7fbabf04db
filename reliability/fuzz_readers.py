"""Fuzz every parser of foreign files: any bytes may only give rows, skips, or a line that says why.

    python reliability/fuzz_readers.py --list
    python reliability/fuzz_readers.py --parser images tables --minutes 10
    python reliability/fuzz_readers.py --minutes 0.2          # all, this long each

Valid files (`fuzz_pairs.py`, `fuzz_texts.py`, `fuzz_models.py`) are damaged at random: their bytes,
and the values of their JSON and YAML. Another exception than the parser's own, a message of several
lines, more than 20 seconds or 6 GB for one input is a finding: its input is kept, and the program
ends with an error after the time is up. `tests/test_fuzzing.py` sees to it that no reader of vilta
is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from damage import Seed, damaged
from fuzz_models import PARSERS as OF_MODELS
from fuzz_pairs import PARSERS as OF_PAIRS
from fuzz_parser import Parser, Read
from fuzz_texts import PARSERS as OF_TEXTS
from results import write_result

PARSERS = {parser.name: parser for parser in [*OF_PAIRS, *OF_TEXTS, *OF_MODELS]}
SECONDS = 20
"""For one input; an input is a few kilobytes."""
MEMORY = 6 * 2**30
"""Bytes that the process may take above what it holds at the start."""


class TooLong(BaseException):
    """An input took longer than ``SECONDS``; no reader catches this."""


class Campaign:
    """The inputs of one parser, and what came of them."""

    def __init__(self, parser: Parser, folder: Path, kept: Path) -> None:
        self.parser, self.kept = parser, kept
        self.inputs: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.findings: dict[str, str] = {}
        self.places: list[tuple[Path, Read, Seed]] = []
        for number, (name, (read, seeds)) in enumerate(parser.files.items()):
            place = folder / str(number)
            place.mkdir(parents=True)
            parser.prepare(place)
            self.places += [(place / name, read, seed) for seed in seeds]

    def run(self, seconds: float, inputs: int, random: Random) -> None:
        """Try damaged files for this long, or so many of them."""
        began = time.monotonic()
        while sum(self.inputs.values()) < inputs or time.monotonic() - began < seconds:
            path, read, seed = random.choice(self.places)
            self.try_input(path, read, damaged(seed, random))

    def try_input(self, path: Path, read: Read, data: bytes) -> None:
        """Try one input, and keep it if it is the first with its finding."""
        fresh = path.with_name(".fresh")
        fresh.write_bytes(data)
        os.replace(fresh, path)  # an earlier content may still be mapped into memory
        self.inputs[path.name] += 1
        signal.alarm(SECONDS)
        try:
            read(path)
        except self.parser.errors as error:
            self.refused[path.name] += 1
            if "\n" in str(error).strip():
                self._found(path, data, error, "a message of several lines: ")
        except (Exception, TooLong) as error:  # noqa: BLE001 - what a parser must not raise
            self._found(path, data, error)
        finally:
            signal.alarm(0)

    def _found(self, path: Path, data: bytes, error: BaseException, what: str = "") -> None:
        """Note a finding by its kind and the last line of vilta that it passed."""
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if "/vilta/" in line.filename] or lines[-1:]
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
        key = f"{path.name}: {what}{type(error).__name__} at {where}"
        if key not in self.findings:
            self.findings[key] = " ".join(str(error).split())[:300]
            kept = self.kept / f"{self.parser.name}-{len(self.findings)}-{path.name}"
            kept.write_bytes(data)
            print(f"{key}: {self.findings[key]}; kept as {kept}", file=sys.stderr, flush=True)


def too_long(*_: Any) -> None:
    """End an input."""
    raise TooLong(f"longer than {SECONDS} s")


def fuzz(parser: Parser, minutes: float, inputs: int, seed: int, kept: Path) -> dict[str, str]:
    """Fuzz a parser and write its result; return its findings."""
    began, before = time.time(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        campaign = Campaign(parser, Path(folder), kept)
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                campaign.run(60 * minutes, inputs, Random(seed))
    figures = {
        "parser": parser.name,
        "seed": seed,
        "processor_seconds": round(time.process_time() - before),
        "inputs": sum(campaign.inputs.values()),
        "refused_in_a_line": sum(campaign.refused.values()),
        "inputs_by_file": dict(campaign.inputs),
        "findings": campaign.findings,
    }
    write_result(f"fuzz-{parser.name}", began, figures, short=inputs > 0)
    return campaign.findings


def main() -> None:
    """Fuzz the parsers that were named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parser", nargs="+", choices=PARSERS, default=list(PARSERS))
    parser.add_argument("--list", action="store_true", help="name the parsers and their files")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each parser")
    parser.add_argument(
        "--inputs", type=int, default=0, help="so many for each parser, however long they take"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kept", type=Path, default=Path("findings"), help="folder of findings")
    arguments = parser.parse_args()
    minutes = 0.0 if arguments.inputs else arguments.minutes
    if arguments.list:
        for each in PARSERS.values():
            print(f"{each.name}: {', '.join(each.files)}")
        return
    arguments.kept.mkdir(exist_ok=True)
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, too_long)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    found = {
        name: fuzz(PARSERS[name], minutes, arguments.inputs, arguments.seed, arguments.kept)
        for name in arguments.parser
    }
    if any(found.values()):
        raise SystemExit(f"findings in {', '.join(name for name in found if found[name])}")


if __name__ == "__main__":
    main()
