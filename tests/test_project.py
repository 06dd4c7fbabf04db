"""The project's own files agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = map(
        Requirement, [*project["dependencies"], *(line for extra in extras for line in extra)]
    )
    ranges: dict[str, SpecifierSet] = {each.name.lower(): each.specifier for each in wanted}
    for line in read("constraints.txt").splitlines():
        if not line or line.startswith("#"):
            continue
        cap = Requirement(line)
        assert cap.name.lower() in ranges, f"{cap.name} is not a dependency"
        assert {each.operator for each in cap.specifier} == {"<"}, f"{line}: floors are pyproject's"
        floors = [each.version for each in ranges[cap.name.lower()] if each.operator == ">="]
        assert all(cap.specifier.contains(floor) for floor in floors), f"nothing satisfies {line}"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
