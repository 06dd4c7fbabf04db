"""What is written of the programs that break vilta on purpose is what their files hold."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "reliability"))
import results  # noqa: E402
import signals  # noqa: E402
import soak  # noqa: E402
from mutation import TESTS_OF, TOP, files_of, guards_of  # noqa: E402

RESULTS = ROOT / "reliability" / "results"
README = (ROOT / "reliability" / "README.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
BASE = {"mb": 650.0, "files": 70.0, "threads": 9.0}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def result(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rooms():
    """Folders of the package, and the files beside them, that hold a guard."""
    folders = [path.parent.name for path in (ROOT / "src" / "vilta").glob("*/__init__.py")]
    return {room for room in [*folders, TOP] if any(any(guards_of(f)) for f in files_of(room))}


def test_every_guard_has_a_room_with_tests_and_every_room_has_been_tried():
    guards = sum(len(list(guards_of(file))) for room in rooms() for file in files_of(room))
    everywhere = (ROOT / "src" / "vilta").rglob("*.py")
    assert guards == sum(len(list(guards_of(file))) for file in everywhere) > 300
    for room in rooms():
        for tests in TESTS_OF.get(room, (room,)):
            assert (ROOT / "tests" / tests).exists(), f"{room} has no tests in {tests}"
    tried = [json.loads(path.read_text()) for path in RESULTS.glob("mutation-*.json")]
    assert rooms() <= {room for each in tried for room in each["rooms"]}


def test_figures_in_prose_are_those_of_the_files():
    packages = result("advisories")
    assert f"each of the {packages['packages'] - 1} locked" in README  # torch is told of apart
    assert f"{packages['without_any_advisory']} have none" in " ".join(README.split())
    inputs = sum(json.loads(path.read_text())["inputs"] for path in RESULTS.glob("fuzz-*.json"))
    assert f"{inputs:,} inputs in all" in README
    poisons = result("poisons")["poisons"] + sum(result("poison_inputs")["poisons"].values())
    assert f"{poisons} hostile files" in " ".join(SECURITY.split())


def test_every_file_that_the_prose_names_is_there():
    named = set(re.findall(r"`results/([\w./-]+\.json)`", README)) - {"fuzz-NAME.json"}
    assert named and [name for name in named if not (RESULTS / Path(name)).is_file()] == []


def test_make_runs_a_form_of_every_program():
    own = (path.read_text(encoding="utf-8") for path in (ROOT / "reliability").glob("*.py"))
    programs = [text for text in own if '__name__ == "__main__"' in text]
    recipe = MAKEFILE.split("\nreliability:")[1].split("\n\n")[0]
    run = re.findall(r"python (reliability/\w+\.py)", recipe)
    assert len(run) == len(set(run)) == len(programs) > 9


def test_a_short_form_leaves_the_figures_of_the_long_one_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.write_result("soak", 0.0, {"steps": 2})
    results.write_result("soak", 0.0, {"steps": 1}, short=True)
    kept = {
        str(p.relative_to(tmp_path)): json.loads(p.read_text())["steps"]
        for p in tmp_path.rglob("*.json")
    }
    assert kept == {"soak.json": 2, "short/soak.json": 1}


@pytest.mark.parametrize(
    ("leak", "each", "broken"),
    [
        ({}, 1, []),
        ({"files": 8}, soak.SHORT_STEPS, []),  # a batch more waits at the end
        ({"files": 1}, soak.SHORT_EVERY_STEPS["save_every"], ["files"]),
        ({"files": 2}, soak.SHORT_EVERY_STEPS["evaluate_every"], ["files"]),
        ({"threads": 1}, soak.SHORT_EVERY_STEPS["evaluate_every"], ["threads"]),
        ({"mb": 0.2}, 1, []),
        ({"mb": 0.3}, 1, ["lasting_mb"]),
    ],
)
def test_the_short_soak_sees_what_a_step_an_evaluation_or_a_checkpoint_leaves_behind(
    leak, each, broken
):
    samples = [
        {name: base + leak.get(name, 0) * (step // each) for name, base in BASE.items()}
        | {"step": step}
        for step in range(1, soak.SHORT_STEPS + 1)
    ]
    for s in samples:  # the first process, a loader, and others that live for three steps
        passing = {3 + s["step"] // 3: 200.0} if s["step"] % 2 else {}
        s["process_mb"] = {1: s.pop("mb"), 2: 150.0, **passing}
    _, found = soak.judged_short(samples)
    assert [line.split()[0] for line in found] == broken


@pytest.mark.parametrize(
    ("change", "strict", "short"),
    [
        ({}, False, False),
        ({"status": -15}, False, False),  # before there is a handler
        ({"status": 1}, True, True),
        ({"status": 130}, True, True),  # of another signal
        ({"steps_after": 2}, True, True),
        ({"processor_seconds": 6.0}, True, False),
        ({"processor_seconds": 60.0}, True, True),
        ({"processor_seconds": 0.6, "asked": "twice"}, True, False),
        ({"processor_seconds": 0.6, "status": 0}, True, False),  # it went on to its end
        ({"processor_seconds": 0.6, "status": 0, "place": "release"}, False, False),
    ],
)
def test_only_the_long_form_of_signals_has_tight_bounds_in_seconds(change, strict, short):
    found = {"signal": "SIGTERM", "status": 143, "place": "save", "asked": "once", "steps_after": 1}
    found |= {"processor_seconds": 0.2} | change
    assert signals.broken(found, 1.0) == strict
    assert signals.broken(found, results.SLOWER) == short
