"""What is written of the programs that break vilta on purpose is what their files hold."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "reliability"))
from mutation import TESTS_OF, TOP, files_of, guards_of  # noqa: E402

RESULTS = ROOT / "reliability" / "results"
README = (ROOT / "reliability" / "README.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


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
    named = set(re.findall(r"`results/([\w.-]+\.json)`", README)) - {"fuzz-NAME.json"}
    assert named and [name for name in named if not (RESULTS / Path(name)).is_file()] == []
