"""The project's own files agree with each other."""

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vilta

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/**/*.md")]  # `make docs` checks docs/


def test_the_version_is_the_same_everywhere():
    releases = re.findall(
        r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", read("CHANGELOG.md"), re.MULTILINE
    )
    citation = yaml.safe_load(read("CITATION.cff"))
    assert releases[0] == citation["version"] == vilta.__version__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [target for target in files if not (page.parent / target).exists()] == []


def test_constraints_only_cap_what_pyproject_asks_for():
    ranges = {each.name.lower(): each.specifier for each in requirements()}
    for line in read("constraints.txt").splitlines():
        if not line or line.startswith("#"):
            continue
        cap = Requirement(line)
        assert cap.name.lower() in ranges, f"{cap.name} is not a dependency"
        assert {each.operator for each in cap.specifier} == {"<"}, f"{line}: floors are pyproject's"
        floors = [each.version for each in ranges[cap.name.lower()] if each.operator == ">="]
        assert all(cap.specifier.contains(floor) for floor in floors), f"nothing satisfies {line}"


EXTRAS = ("heic", "http", "onnx", "pos", "sentence-transformers", "serve", "docs")
"""What `make test` and `make docs` need beside the development tools."""


def test_the_lock_is_for_the_extras_of_make():
    (own,) = (each for each in requirements("dev") if each.name == "vilta")
    assert own.extras == set(EXTRAS)


def test_the_lock_has_what_pyproject_asks_for():
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([\w.]+)", read("requirements.lock"), re.MULTILINE
    ):
        versions.setdefault(canonicalize_name(name), []).append(version)
    for requirement in requirements(*EXTRAS, "dev"):
        name = canonicalize_name(requirement.name)
        if name in ("vilta", "torch"):  # itself, and what the lock's first lines say
            continue
        assert name in versions, f"run `make lock`: {name} is not locked"
        assert all(map(requirement.specifier.contains, versions[name])), f"run `make lock`: {name}"


def requirements(*extras: str) -> list[Requirement]:
    """Requirements of the package and of the named extras, of all of them where none is named."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    optional = project["optional-dependencies"]
    lines = chain.from_iterable(optional[extra] for extra in extras or optional)
    return [*map(Requirement, [*project["dependencies"], *lines])]


def test_the_picture_of_the_layers_shows_every_folder():
    shown = set(re.findall(r">(\w+)/<", read("docs/images/layers.svg")))
    there = {file.parent.name for file in (ROOT / "src" / "vilta").glob("*/__init__.py")}
    assert shown == there


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_a_step_of_the_demo_that_failed_is_made_again(tmp_path):
    """A model that was written and not calibrated, since `vilta` was killed, is no finished one."""
    (tmp_path / "Makefile").write_text(read("Makefile"))
    program = tmp_path / ".venv" / "bin" / "vilta"
    program.parent.mkdir(parents=True)
    program.write_text(
        "#!/bin/sh\n"
        "mkdir -p runs/demo-data/train && echo > runs/demo-data/train/manifest.json\n"
        "kill -9 $$\n"
    )
    program.chmod(0o755)
    call = ["make", "-o", ".venv/.installed", "runs/demo-data/train/manifest.json"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode and "Killed" in done.stderr
    assert not (tmp_path / "runs" / "demo-data" / "train" / "manifest.json").exists()
