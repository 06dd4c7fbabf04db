"""Remove each guard, and see that a test fails: what no test misses, protects nobody.

    python reliability/mutation.py data        # the guards of one room by the tests of that room
    python reliability/mutation.py top         # those of the files right below src/vilta

A guard is a `raise` of a new exception. In a temporary copy every one of them is put under a switch
of its own. The tests of the rooms that were named run once, and each guard notes the tests in
which it fires. Then the switches of as many guards are off as fire in no test together, so that the
program goes on as if they were not there, and the tests in which they had fired run again: one of
each guard's must fail. And so on for the others, in forks of one process that has imported
everything. That tests fail in these rounds is what is wanted. A guard that fires in no test, or
that no test misses, is named, and so is a test that fails with every guard in place; either ends
the program with an error, but for the guards of `ACCEPTED`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import pkgutil
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from results import write_result

ROOT = Path(__file__).parents[1]
SWITCH = '''
"""Whether a guard is there: all are, but the one that is removed."""
import os

def there(name):
    if name in os.environ.get("GUARDS_REMOVED", "").split("\\t"):
        return False
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if test:
        with open(os.environ["GUARDS_FIRED"], "a") as file:
            file.write(f"{name}\\t{test}\\n")
    return True
'''
MOST_TESTS = 12
"""Tests that are tried for a guard, the quickest of those in which it fired."""
TESTS_AT_ONCE = 3
"""Tests of one guard in a round."""
PATIENCE = 300
"""Seconds for a test and its fixtures, on a busy machine."""
SLOWER = 4
"""A test may take so many times what the slowest of its file took before (whose fixtures it may
have to make), and ``LEAST_PATIENCE`` more; one that hangs without a guard counts as failed."""
LEAST_PATIENCE = 30
TOP = "top"
"""The room of the files that lie right below src/vilta."""
TESTS_OF = {
    TOP: (
        *(f"test_{name}.py" for name in ("arguments", "cli", "finished_run", "json_text")),
        *(f"test_{name}.py" for name in ("locking", "png_texts", "screen", "torch_file", "trust")),
        *("data/test_transforms.py", "data/test_poison.py", "model/test_processing.py"),
        *("commands/test_training.py", "commands/test_refused_flags.py", "tasks/test_waiting.py"),
        "data/test_new_source.py",
    ),
    "ablation": ("ablation", "commands/test_ablate.py"),
}
"""Tests of a room, below tests, where they are not the folder of its name."""
ACCEPTED: dict[str, str] = {}
"""Guards, as `file::function`, that no test can reach here, each with the reason."""


@dataclass(frozen=True)
class Guard:
    """A `raise` in the source."""

    file: str
    line: int
    column: int
    function: str

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.file}:{self.line}::{self.function}"


def without_line(name: str) -> str:
    """Return a guard's file and function: its line moves."""
    file, _, function = name.partition("::")
    return f"{file.partition(':')[0]}::{function}"


def guards_of(file: Path) -> Iterator[Guard]:
    """Yield the guards of a file, those of generators and nested functions too."""

    def walk(node: ast.AST, function: str) -> Iterator[Guard]:
        for child in ast.iter_child_nodes(node):
            inner = function
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{function}.{child.name}".lstrip(".")
            if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call):
                place = file.relative_to(ROOT / "src/vilta").as_posix()
                yield Guard(place, child.lineno, child.col_offset, function)
            yield from walk(child, inner)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), "")


def copy_with_switches(target: Path, guards: list[Guard]) -> None:
    """Copy what git knows, and what it would, and put each guard under its switch."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    (target / "src" / "guard_switch.py").write_text(SWITCH)
    by_file: dict[str, list[Guard]] = {}
    for guard in guards:
        by_file.setdefault(guard.file, []).append(guard)
    for file, found in by_file.items():
        path = target / "src/vilta" / file
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for guard in sorted(found, key=lambda guard: -guard.column):
            before, after = lines[guard.line - 1][: guard.column], lines[guard.line - 1]
            switch = f"if __import__('guard_switch').there({guard.name!r}): "
            lines[guard.line - 1] = before + switch + after[guard.column :]
        path.write_text("".join(lines), encoding="utf-8")


class Outcomes:
    """A pytest plugin: writes what became of each test, and ends one that takes too long."""

    def __init__(self, file: Path, usual: dict[str, float]) -> None:
        self.file, self.usual, self.times = file, usual, dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Give a test its time; the alarm is also that of tests that set one of their own."""
        usual = self.usual.get(_file_of(item.nodeid), PATIENCE)
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.alarm(min(PATIENCE, LEAST_PATIENCE + round(SLOWER * usual)))
        try:
            return (yield)
        finally:
            signal.alarm(0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a test when all of it has run, or a part of it has failed."""
        test = report.nodeid
        self.times[test] = self.times.get(test, 0.0) + report.duration
        if report.failed or report.when == "teardown":
            with self.file.open("a") as file:
                file.write(f"{report.outcome}\t{self.times[test]}\t{test}\n")


class OutOfTime(BaseException):
    """A test took longer than ``PATIENCE``; what is tested catches no such thing."""


def _out_of_time(*_: Any) -> NoReturn:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # one that cannot even end is killed
    signal.alarm(PATIENCE)
    raise OutOfTime


def _file_of(test: str) -> str:
    return test.partition("::")[0]


class Server:
    """Runs tests in forks of one process, which has imported torch and all of the copy's vilta."""

    def __init__(self, copy: Path) -> None:
        self.copy = copy
        self.usual: dict[str, float] = {}
        """Seconds of the slowest test of each file, once all have run."""
        os.chdir(copy)
        sys.path[:0] = [str(copy / "src"), str(copy)]
        os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        runpy.run_path(str(copy / "tests" / "conftest.py"))  # the checks of shapes come first
        import vilta

        for module in pkgutil.walk_packages(vilta.__path__, "vilta."):
            if not module.name.endswith("__main__"):
                with contextlib.suppress(ImportError):  # one that needs what is not installed
                    importlib.import_module(module.name)

    def run(self, tests: list[str], removed: set[str]) -> dict[str, tuple[str, float]]:
        """Run tests without these guards; return the outcome and the seconds of each.

        Ctrl-C for the forked process ends it, and what it has done until then counts.
        """
        file = self.copy / "outcomes"
        file.write_text("")
        if (process := os.fork()) == 0:
            os.environ["GUARDS_REMOVED"] = "\t".join(removed)
            os.environ["GUARDS_FIRED"] = str(self.copy / ("fired-without" if removed else "fired"))
            try:
                flags = ["-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
                flags += ["--no-summary", "--disable-warnings"]
                pytest.main([*flags, *tests], plugins=[Outcomes(file, self.usual)])
            finally:
                os._exit(0)
        os.waitpid(process, 0)
        lines = (line.split("\t") for line in file.read_text().splitlines())
        found: dict[str, tuple[str, float]] = {}
        for outcome, seconds, test in lines:
            if found.get(test, ("", 0.0))[0] != "failed":
                found[test] = (outcome, float(seconds))
        if not removed:
            for test, (_, took) in found.items():
                self.usual[_file_of(test)] = max(self.usual.get(_file_of(test), 0.0), took)
        return found


def fired(copy: Path, outcomes: dict[str, tuple[str, float]]) -> dict[str, list[str]]:
    """Return the passed tests in which each guard fired, the quickest first."""
    found: dict[str, set[str]] = {}
    for line in (copy / "fired").read_text(encoding="utf-8").splitlines():
        name, _, test = line.partition("\t")
        if outcomes.get(test, ("", 0.0))[0] == "passed":
            found.setdefault(name, set()).add(test)
    return {
        name: sorted(tests, key=lambda test: outcomes[test][1]) for name, tests in found.items()
    }


def apart(
    waiting: dict[str, list[str]], fired_in: dict[str, set[str]], most: int
) -> dict[str, list[str]]:
    """Choose guards, and tests for each, so that in every test at most one of them fires.

    They can be removed at once: a test that fails tells whose it is.
    """
    chosen: dict[str, list[str]] = {}
    used: set[str] = set()
    taken: set[str] = set()
    for name, tests in waiting.items():
        own = tests[:most]
        if fired_in[name] & used or taken & set(own):
            continue
        chosen[name] = own
        used |= set(own)
        taken |= fired_in[name]
    return chosen


def removed_together(server: Server, tests: dict[str, list[str]]) -> dict[str, str]:
    """Return what became of each guard that fires in a test: noticed or unnoticed."""
    fired_in = {name: set(found) for name, found in tests.items()}
    waiting = {name: found[:MOST_TESTS] for name, found in tests.items()}
    outcomes: dict[str, str] = {}
    while waiting:
        chosen = apart(waiting, fired_in, TESTS_AT_ONCE)
        print(f"{len(chosen)} guards removed: their tests should fail", file=sys.stderr, flush=True)
        results = server.run([t for own in chosen.values() for t in own], set(chosen))
        for name, own in chosen.items():
            if set(own) - results.keys():  # the process ended before: because of this one?
                results |= {test: ("failed", 0.0) for test in own} | server.run(own, {name})
            waiting[name] = waiting[name][len(own) :]
            if any(results[test][0] == "failed" for test in own):
                outcomes[name] = "noticed"
            elif not waiting[name]:
                outcomes[name] = "unnoticed"
        waiting = {name: left for name, left in waiting.items() if name not in outcomes}
        print(f"{len(waiting)} guards left", file=sys.stderr, flush=True)
    return outcomes


def files_of(room: str) -> list[Path]:
    """Return the sources of a room."""
    place = ROOT / "src/vilta" / room
    if room == TOP:
        return sorted(place.parent.glob("*.py"))
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def main() -> None:
    """Remove the guards of the rooms that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="+", help=f"folders below src/vilta, or {TOP}")
    parser.add_argument("--tests", nargs="*", help="below tests; those of the rooms if left out")
    parser.add_argument("--sample", type=int, default=0, help="guards to remove; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=Path, help="an earlier result: only the guards it names")
    arguments = parser.parse_args()
    began = time.time()
    guards = [g for room in arguments.rooms for file in files_of(room) for g in guards_of(file)]
    chosen_tests = arguments.tests or [t for r in arguments.rooms for t in TESTS_OF.get(r, (r,))]
    chosen = guards
    if arguments.sample:
        chosen = random.Random(arguments.seed).sample(guards, min(arguments.sample, len(guards)))
    if arguments.again:
        named = set(map(without_line, json.loads(arguments.again.read_text())["not_accepted"]))
        chosen = [guard for guard in guards if without_line(guard.name) in named]
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        copy = Path(folder)
        copy_with_switches(copy, guards)
        (copy / "fired").touch()
        server = Server(copy)
        first = server.run([f"tests/{name}" for name in chosen_tests], set())
        failing = sorted(test for test, (outcome, _) in first.items() if outcome == "failed")
        print(f"{len(first)} tests, {len(failing)} fail with every guard in place", file=sys.stderr)
        tests = fired(copy, first)
        known = {guard.name: tests[guard.name] for guard in chosen if guard.name in tests}
        outcomes = {guard.name: "in no test" for guard in chosen} | removed_together(server, known)
        os.chdir(ROOT)
    found = {kind: [n for n, o in outcomes.items() if o == kind] for kind in set(outcomes.values())}
    bad = [n for kind in ("unnoticed", "in no test") for n in found.get(kind, [])]
    open_ones = [name for name in bad if without_line(name) not in ACCEPTED]
    figures: dict[str, Any] = {
        "rooms": arguments.rooms,
        "guards": len(guards),
        "removed": len(chosen),
        **{kind.replace(" ", "_"): len(names) for kind, names in sorted(found.items())},
        "not_accepted": open_ones,
        "failing": failing,
    }
    rooms = "-".join(arguments.rooms).replace("/", ".")
    write_result(f"mutation-{rooms}{'-again' if arguments.again else ''}", began, figures)
    if open_ones or failing:
        raise SystemExit(
            f"{len(open_ones)} guards could go and no test would fail; "
            f"{len(failing)} tests fail with every guard in place"
        )


if __name__ == "__main__":
    main()
