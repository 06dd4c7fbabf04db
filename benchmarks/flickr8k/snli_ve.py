"""SNLI-VE on Flickr8k photos, in folds of whole photos: with the image, blind, and the majority.

    python -m benchmarks.flickr8k.snli_ve split ITEMS.jsonl runs/flickr8k/snli-ve
    python -m benchmarks.flickr8k.snli_ve run runs/flickr8k/snli-ve
    python -m benchmarks.flickr8k.snli_ve collect runs/flickr8k/snli-ve

Each item is answered once, by a model that was trained on none of its photo's items. Intervals
are bootstrapped over photos, because items of one photo are not independent.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.speed.training import read_training

FOLDS = 3
ARMS = {"image": [], "blind": ["--data.blind"]}
RESULT = Path(__file__).parents[1] / "results" / "tasks" / "flickr8k-snli-ve.json"


def split(items: Path, out: Path) -> None:
    """Write train-K.jsonl and val-K.jsonl; a photo's fold follows from its name."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [line for line in items.read_text().splitlines() if line]
    folds = [fold_of(json.loads(line)["Flickr30K_ID"]) for line in lines]
    for k in range(FOLDS):
        for name, inside in {"val": True, "train": False}.items():
            chosen = [
                line for line, fold in zip(lines, folds, strict=True) if (fold == k) == inside
            ]
            (out / f"{name}-{k}.jsonl").write_text("\n".join(chosen) + "\n")
            print(f"wrote {out / name}-{k}.jsonl: {len(chosen):,} items")


def fold_of(photo: str) -> int:
    """Return the fold of a photo."""
    return int(hashlib.sha256(photo.encode()).hexdigest(), 16) % FOLDS


def run(out: Path) -> None:
    """Train and answer each fold in each arm; what is done already is kept."""
    for k in range(FOLDS):
        for arm, flags in ARMS.items():
            folder = out / f"{arm}-{k}"
            if not (folder / "model" / "config.json").is_file():
                data = ["--data.train", str(out / f"train-{k}.jsonl")]
                config = "benchmarks/flickr8k/snli-ve.yaml"
                where = ["--run.out", str(folder), "--run.overwrite"]
                vilta("finetune", config, *data, *where, *flags)
            answers = ["--submission", str(folder / "answers.csv")]
            items = ["--data", str(out / f"val-{k}.jsonl"), "--images", "runs/flickr8k/all"]
            vilta("evaluate", str(folder), *items, *answers)


def vilta(*arguments: str) -> None:
    """Run the command line with the benchmark's encoder, in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.flickr8k", *arguments], check=True)


def collect(out: Path) -> None:
    """Write the result: each arm's accuracy with its 95 % interval, and the difference."""
    photos: list[str] = []
    right: dict[str, list[bool]] = {"image": [], "blind": [], "majority": []}
    for k in range(FOLDS):
        items = [json.loads(line) for line in (out / f"val-{k}.jsonl").read_text().splitlines()]
        train = [json.loads(line) for line in (out / f"train-{k}.jsonl").read_text().splitlines()]
        truth = [item["gold_label"] for item in items]
        photos += [item["Flickr30K_ID"] for item in items]
        most = Counter(item["gold_label"] for item in train).most_common(1)[0][0]
        right["majority"] += [label == most for label in truth]
        for arm in ARMS:
            lines = (out / f"{arm}-{k}" / "answers.csv").read_text().splitlines()
            given = [line.rpartition(",")[2] for line in lines]
            right[arm] += [a == b for a, b in zip(given, truth, strict=True)]
    intervals = {name: interval(photos, np.array(hits)) for name, hits in right.items()}
    seen, blind = (np.array(right[arm], dtype=float) for arm in ARMS)
    intervals["image minus blind"] = interval(photos, seen - blind)
    trained = [read_training(out / f"{arm}-{k}") for arm in ARMS for k in range(FOLDS)]
    result: dict[str, Any] = {
        "title": "SNLI-VE on Flickr8k photos",
        "note": f"{len(photos):,} items about {len(set(photos)):,} photos, in {FOLDS} folds of "
        "whole photos: each is answered once, by a model trained on the other folds.\n`blind` sees "
        "the sentence alone, `majority` says the largest class of the training items; intervals "
        "by bootstrap over photos.\nPre-training saw most of the photos with their captions, but "
        "none of these items.",
        "items": len(photos),
        "role": "test",
        "intervals": intervals,
        "seed": 0,
        "minutes": round(sum(run["minutes"] for run in trained), 1),
        "steps": [run["steps"] for run in trained],
        "device": " and ".join(sorted({run["device"] for run in trained})),
        "command": "python -m benchmarks.flickr8k.snli_ve run runs/flickr8k/snli-ve",
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def interval(photos: list[str], values: np.ndarray) -> dict[str, float]:
    """Return the mean in percent and its 95 % interval, drawn anew over photos."""
    return bootstrap_interval(photos, 100 * values.astype(float))._asdict()


if __name__ == "__main__":
    verb, *places = sys.argv[1:]
    {"split": split, "run": run, "collect": collect}[verb](*map(Path, places))
