"""Fine-tune and measure the tasks, from a pre-trained run and from scratch; make docs/results.md.

    python -m benchmarks.tasks scenes [TASK ...]    # every task on the built-in scenes
    python -m benchmarks.tasks negatives            # the demo's generated negatives, by the oracle
    python -m benchmarks.tasks easy-vqa             # easy-VQA, once it is prepared
    python -m benchmarks.tasks flickr8k             # retrieval, once benchmarks/flickr8k has run
    python -m benchmarks.tasks table                # docs/results.md from the JSON files

Each result is one JSON file below benchmarks/results/tasks; the table is made of them alone. A
checkpoint is chosen on the validation scenes (seed 101); the test scenes (seed 102) are looked at
once, after that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from benchmarks.speed.training import read_training
from benchmarks.tasks.page import NEGATIVES, page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tasks"
TABLE = ROOT / "docs" / "results.md"
TRAINED = ("vqa", "nlvr2", "snli-ve", "fine-grained", "retrieval")
ARMS = {"pretrained": [], "scratch": ["--scratch"]}
TEST = {
    "vqa": "scenes:1000?seed=102&size=96",
    "nlvr2": "scenes:2000?seed=102&size=96",
    "snli-ve": "scenes:1500?seed=102&size=96",
    "fine-grained": "scenes:1000?seed=102&size=96",
    "retrieval": "scenes:1000?seed=102&size=96",
    "masked-words": "scenes:1000?seed=102&size=96",
}
ZERO_SHOT = ("fine-grained", "retrieval", "masked-words")
"""Tasks that the pre-trained run can do as it is."""
FLICKR8K = "benchmarks.flickr8k"
"""The command line with the encoder of that benchmark registered."""


def scenes(names: list[str]) -> None:
    """Fine-tune each task both ways, with the same steps, and evaluate it on the test scenes."""
    for name in names or TEST:
        for arm, flags in ARMS.items() if name in TRAINED else ():
            out = Path("runs/scenes") / f"{name}-{arm}"
            if not finished(out):
                vilta(
                    "finetune", f"scenes/{name}", "--run.out", str(out), "--run.overwrite", *flags
                )
            record(name, arm, out, TEST[name], "scenes")
        if name in ZERO_SHOT:
            record(name, "zero-shot", Path("runs/demo"), TEST[name], "scenes")


def negatives() -> None:
    """Ask the oracle how many of the demo's generated negatives are true after all."""
    run, out = Path("runs/demo"), Path("runs/demo/benchmark-negatives.json")
    vilta("evaluate", str(run), "--data", TEST["retrieval"], "--out", str(out))
    found = json.loads(out.read_text())
    kept = {name: found[name] for name in ("run", "data", "role", "precision", "seed")}
    result = {"task": NEGATIVES, **kept, "items": found["images"], **read_training(run)}
    result |= {"metrics": found["metrics"]["negatives"]}
    write("scenes-negatives", result | {"command": f"python -m benchmarks.tasks {NEGATIVES}"})


def easy_vqa(names: list[str]) -> None:
    """Fine-tune on easy-VQA's training pictures and answer its test questions, once."""
    run, data = Path("runs/easy-vqa/run"), Path("runs/easy-vqa")
    if not finished(run):
        vilta("finetune", "benchmarks/easy_vqa/finetune.yaml", "--run.overwrite")
    images = ["--images", str(data / "test-images")]
    record("vqa", "pretrained", run, str(data / "test.csv"), "easy-vqa", *images)


def flickr8k(names: list[str]) -> None:
    """Fine-tune retrieval on the training photos; measured on val, before and after."""
    run, val = Path("runs/flickr8k/retrieval"), "runs/flickr8k/val"
    if not finished(run):
        vilta("finetune", "benchmarks/flickr8k/retrieval.yaml", "--run.overwrite", module=FLICKR8K)
    record("retrieval", "pretrained", run, val, "flickr8k", module=FLICKR8K)
    start = Path("runs/flickr8k/run-0")
    for name in ("retrieval", "masked-words"):
        record(name, "zero-shot", start, val, "flickr8k", module=FLICKR8K)


def finished(run: Path) -> bool:
    """Whether a run has released its model."""
    return (run / "model" / "config.json").is_file()


def record(
    name: str, arm: str, run: Path, data: str, source: str, *flags: str, module: str = "vilta"
) -> None:
    """Evaluate a run and write the result with how it was trained."""
    out = run / f"benchmark-{name}.json"
    where = ["--task", name, "--data", data, "--out", str(out)]
    vilta("evaluate", str(run), *where, *flags, module=module)
    result = json.loads(out.read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    result |= {
        "source": source,
        "arm": arm,
        "seed": config["run"]["seed"],
        **read_training(run),
        "batch": config["optimization"]["batch_size"] * config["optimization"]["accumulate"],
        "command": f"python -m benchmarks.tasks {source}",
    }
    write(f"{source}-{name}-{arm}", result)


def write(name: str, result: dict[str, Any]) -> None:
    """Write a result among those that are committed."""
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {target.relative_to(ROOT)}")


def vilta(*arguments: str, module: str = "vilta") -> None:
    """Run the command line in a process of its own; ends this one if it fails."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def read_results() -> tuple[
    list[dict[str, Any]], dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]
]:
    """Return what is committed on the tasks, retrieval's speed, a step's speed, and methods."""
    compared = sorted((RESULTS.parent / "ablate").glob("*.json"), key=lambda path: path.stem)
    results, *steps = (
        [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]
        for folder, pattern in ((RESULTS, "*.json"), (RESULTS.parent, "training_step*.json"))
    )
    speed = json.loads((RESULTS.parent / "retrieval.json").read_text())
    return results, speed, *steps, {path.stem: json.loads(path.read_text()) for path in compared}


def table() -> None:
    """Write docs/results.md."""
    results, speed, steps, comparisons = read_results()
    TABLE.write_text(page(results, speed, steps, comparisons))
    print(f"wrote {TABLE.relative_to(ROOT)} from {len(results)} results")


VERBS: dict[str, Callable[[list[str]], None]] = {
    "scenes": scenes,
    "easy-vqa": easy_vqa,
    "flickr8k": flickr8k,
    NEGATIVES: lambda _: negatives(),
    "table": lambda _: table(),
}

if __name__ == "__main__":
    verb, *names = sys.argv[1:] or ["table"]
    VERBS[verb](names)
