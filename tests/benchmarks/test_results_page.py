"""docs/results.md is what the command makes of the committed JSON files, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from benchmarks.tasks.__main__ import RESULTS, TABLE, read_results
from benchmarks.tasks.page import page, percent

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_of_the_results():
    assert TABLE.read_text() == page(*read_results())


def test_what_is_not_a_hundred_is_not_called_one():
    assert [percent(v) for v in (52.24, 99.94, 99.96, 100.0)] == ["52.2", "99.9", "99.96", "100.0"]


def test_a_column_for_each_way_to_train():
    common = {"items": 1200, "steps": 30, "batch": 64, "minutes": 2.5, "seed": 0}
    results = [
        {"source": "scenes", "task": "vqa", "arm": arm, "metrics": {"accuracy": value}, **common}
        for arm, value in {"pretrained": 97.04, "scratch": 61.0}.items()
    ]
    assert "| vqa | accuracy | 97.0 | 61.0 | +36.0 |  | 1,200 | 30 x 64 | 2.5 | 0 |" in page(
        results
    )


def test_a_table_with_intervals():
    made = page(
        [
            {
                "title": "Entailment",
                "note": "In folds.",
                "intervals": {"blind": {"mean": 61.24, "low": 59.0, "high": 63.4}},
            }
        ]
    )
    assert "## Entailment\n\nIn folds." in made
    assert "| blind | 61.2 | 59.0 to 63.4 |" in made


def test_masked_words_by_part():
    views = {"with_image": 50.0, "text_only": 20.0, "gain": 30.0}
    metrics = {f"{view}/{top}": value for view, value in views.items() for top in ("top1", "top5")}
    metrics |= {"count": 1234.0} | {f"noun/{name}": value for name, value in metrics.items()}
    metrics |= {"noun/count": 99.0}
    made = page([{"source": "flickr8k", "task": "masked-words", "items": 1000, "metrics": metrics}])
    assert "| all | 50.0 | 50.0 | 20.0 | 20.0 | 30.0 | 30.0 | 1,234 |\n| noun |" in made


@pytest.mark.parametrize("path", sorted(Path(RESULTS).glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path):
    result = json.loads(path.read_text())
    assert {"command", "device", "seed", "minutes", "items"} <= result.keys()
    role = result["role"]
    wanted = "validation" if result.get("source") == "flickr8k" else "test"  # its test is not used
    assert role == wanted or role.startswith("zero-shot") or role.startswith(wanted + ":")


def test_the_contents_lead_to_each_section():
    """Anchors as GitHub makes them: lower case, no punctuation, a hyphen for each space."""
    made = page([{"title": "Words, 1,000", "note": "", "intervals": {}}])
    assert "\n- [Words, 1,000](#words-1000)\n" in made
    headings = [line for line in TABLE.read_text().splitlines() if line.startswith("## ")]
    assert len(set(headings)) == len(headings)


INTERVAL = re.compile(r"([-+]?\d+\.\d)\s+to\s+([-+]?\d+\.\d)")


@pytest.mark.parametrize(
    ("page", "begin", "end", "least"),
    [
        ("README.md", "### Methods compared", "###", 10),
        ("docs/findings.md", "# Findings", "###", 25),
        ("docs/method.md", "## Architecture", "\n## ", 4),
    ],
)
def test_the_intervals_of_the_findings_are_those_of_a_report(page, begin, end, least):
    """One of a planned comparison is wider, as all of them hold together: it is called planned."""
    text = (ROOT / page).read_text(encoding="utf-8").split(begin)[1].split(end)[0]
    told = {True: set(), False: set()}
    for note in re.findall(r"\(([^()]+)\)", text):
        for part in re.split(r"(?=by\s+itself)", note):
            planned = "planned" in part
            told[planned] |= {bounds(*pair) for pair in INTERVAL.findall(part)}
    assert len(told[True]) + len(told[False]) >= least
    reports = [TABLE, *(ROOT / "benchmarks/results/ablate").glob("*.md")]
    lines = [line for report in reports for line in report.read_text().splitlines()]
    for planned, intervals in told.items():
        named = re.compile(r"[-|] .* [<>] .* on ")
        those = [line for line in lines if bool(named.match(line)) is planned]
        assert intervals <= {bounds(*pair) for line in those for pair in INTERVAL.findall(line)}


def bounds(low: str, high: str) -> tuple[float, float]:
    """An interval, whichever of the two is taken from the other."""
    one, other = float(low), float(high)
    return max((one, other), (-other, -one))
