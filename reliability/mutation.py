"""Remove each guard, and see that a test fails: what no test misses, protects nobody.

    python reliability/mutation.py data training tasks apps      # about half an hour
    python reliability/mutation.py config                        # a minute

A guard is a `raise` of a new exception. In a temporary copy every one of them is put under a switch
of its own. The tests of the rooms that were named run once, and each guard notes the tests in
which it fires. Then, guard by guard, the switch is off, so that the program goes on as if the guard
were not there, and the tests in which it had fired run again: one of them must fail. A guard that
fires in no test, or that no test misses, is named, and ends the program with an error if it is not
among those of `ACCEPTED`.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import write_result

ROOT = Path(__file__).parents[1]
SWITCH = '''
"""Whether a guard is there: all are, but the one that is removed."""
import os

def there(name):
    if os.environ.get("GUARD_REMOVED") == name:
        return False
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    with open(os.environ["GUARDS_FIRED"], "a") as file:
        file.write(f"{name}\\t{test}\\n")
    return True
'''
MOST_TESTS = 8
"""Tests that are tried for a guard, in the order in which it fired."""
PATIENCE = 300
"""Seconds for the tests of one guard; one that hangs without it counts as missed."""
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


def run_tests(copy: Path, tests: list[str], removed: str = "") -> int:
    """Run tests in the copy, the first failure ends them; return pytest's status."""
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "GUARDS_FIRED": str(copy / ("fired-without" if removed else "fired")),
        "GUARD_REMOVED": removed,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # In the first run tests may fail, for instance those that look at the source.
    flags = ["-q", "--no-header", "-p", "no:cacheprovider", *(["-x"] if removed else [])]
    command = [sys.executable, "-m", "pytest", *flags, *tests]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            stdout=subprocess.DEVNULL if removed else sys.stderr,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE if removed else None,
        )
    except subprocess.TimeoutExpired:
        return 1
    return done.returncode


def fired(copy: Path) -> dict[str, list[str]]:
    """Return the tests in which each guard fired, in order."""
    found: dict[str, list[str]] = {}
    for line in (copy / "fired").read_text(encoding="utf-8").splitlines():
        name, _, test = line.partition("\t")
        if test and test not in found.setdefault(name, []):
            found[name].append(test)
    return found


def removed_one_by_one(
    copy: Path, guards: list[Guard], tests: dict[str, list[str]]
) -> dict[str, str]:
    """Return what became of each guard: noticed, unnoticed, or in no test."""
    outcomes: dict[str, str] = {}
    for number, guard in enumerate(guards, start=1):
        name = guard.name
        known = tests.get(name, [])[:MOST_TESTS]
        outcomes[name] = "in no test"
        if known:
            outcomes[name] = "noticed" if run_tests(copy, known, name) == 1 else "unnoticed"
        print(f"{number} of {len(guards)}: {name}: {outcomes[name]}", file=sys.stderr, flush=True)
    return outcomes


def main() -> None:
    """Remove the guards of the rooms that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="+", help="folders or files below src/vilta")
    parser.add_argument("--tests", nargs="*", help="below tests; those of the rooms if left out")
    parser.add_argument("--sample", type=int, default=0, help="guards to remove; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.time()
    places = [ROOT / "src/vilta" / room for room in arguments.rooms]
    files = [f for p in places for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    guards = [guard for file in files for guard in guards_of(file)]
    chosen = guards
    if arguments.sample:
        chosen = random.Random(arguments.seed).sample(guards, min(arguments.sample, len(guards)))
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        copy = Path(folder)
        copy_with_switches(copy, guards)
        (copy / "fired").touch()
        run_tests(copy, [f"tests/{name}" for name in arguments.tests or arguments.rooms])
        tests = fired(copy)
        outcomes = removed_one_by_one(copy, chosen, tests)
    found = {kind: [n for n, o in outcomes.items() if o == kind] for kind in set(outcomes.values())}
    bad = [n for kind in ("unnoticed", "in no test") for n in found.get(kind, [])]
    open_ones = [n for n in bad if n.partition(":")[0] + "::" + n.split("::")[1] not in ACCEPTED]
    figures: dict[str, Any] = {
        "rooms": arguments.rooms,
        "guards": len(guards),
        "removed": len(chosen),
        **{kind.replace(" ", "_"): len(names) for kind, names in sorted(found.items())},
        "not_accepted": open_ones,
    }
    write_result(f"mutation-{'-'.join(arguments.rooms).replace('/', '.')}", began, figures)
    if open_ones:
        raise SystemExit(f"{len(open_ones)} guards could go and no test would fail")


if __name__ == "__main__":
    main()
