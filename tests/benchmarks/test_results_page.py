"""docs/results.md is what the command makes of the committed JSON files, and nothing else."""

import json
from pathlib import Path

import pytest
from benchmarks.tasks.__main__ import RESULTS, TABLE, page


def test_the_page_is_made_of_the_results():
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    assert TABLE.read_text() == page(results)


def test_a_row_for_each_run():
    common = {"items": 1200, "steps": 30, "batch": 64, "minutes": 2.5, "seed": 0}
    results = [
        {"source": "scenes", "task": "vqa", "arm": arm, "figures": {"accuracy": value}, **common}
        for arm, value in {"pretrained": 97.04, "scratch": 61.0}.items()
    ]
    made = page(results)
    assert "| vqa | pretrained | accuracy | 97.0 | 1,200 | 30 x 64 | 2.5 | 0 |" in made
    assert "| vqa | scratch | accuracy | 61.0 |" in made


@pytest.mark.parametrize("path", sorted(Path(RESULTS).glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_how_it_was_made(path):
    result = json.loads(path.read_text())
    assert {"command", "device", "seed", "minutes", "items"} <= result.keys()
    assert result["role"] == "test"
