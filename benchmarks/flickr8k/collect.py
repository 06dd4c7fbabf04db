"""Gather finished Flickr8k runs into results.json: what was run, where, how long, what came out.

    python -m benchmarks.flickr8k.collect runs/flickr8k/run-0 runs/flickr8k/retrieval

A run counts if `vilta evaluate` has written its retrieval metrics. All metrics are percent on val.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from benchmarks.speed.training import read_training

from vilta.evaluation.retrieval import STAGES
from vilta.metrics.names import flat

RESULTS = Path(__file__).with_name("results.json")


def read_run(folder: Path) -> dict[str, Any]:
    """Return the entry of one run; ``ValueError`` if it is not finished and evaluated."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    evaluation = read_evaluation(folder, config["data"]["val"])
    metrics = evaluation["metrics"]
    retrieval = flat(metrics.get("retrieval", metrics))  # a fine-tuned run has no others
    return {
        "run": folder.name,
        "seed": config["run"]["seed"],
        "precision": evaluation["precision"],
        **read_training(folder),
        "val": {
            stage: {
                way: {f"R@{k}": retrieval[f"{stage}/{way}/R@{k}"] for k in (1, 5, 10)}
                for way in ("image_to_text", "text_to_image")
            }
            for stage in STAGES
            if f"{stage}/image_to_text/R@1" in retrieval
        },
        "config": config,
    }


def read_evaluation(folder: Path, data: str) -> dict[str, Any]:
    """Return the newest metrics of a run on ``data``; a fine-tuned run has those of its task."""
    for pattern in ("evaluation-*.json", "*retrieval*.json"):
        for path in sorted(folder.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
            evaluation = json.loads(path.read_text())
            if evaluation.get("data") == data:
                return evaluation
    raise ValueError(
        f"{folder} has no evaluation on its data.val; run: vilta evaluate {folder} --data {data} "
        f"(a fine-tuned run: vilta evaluate {folder} --task retrieval --data {data})"
    )


def main() -> None:
    """Write results.json; a run of the same name is replaced, others stay."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    try:
        found = [read_run(Path(name)) for name in sys.argv[1:]]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    names = {entry["run"] for entry in found}
    entries = [entry for entry in known if entry["run"] not in names] + found
    RESULTS.write_text(json.dumps(entries, indent=2) + "\n")
    print(f"wrote {RESULTS.name}: {len(entries)} runs")


if __name__ == "__main__":
    main()
