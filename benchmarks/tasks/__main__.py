"""Fine-tune and measure the tasks, from a pre-trained run and from scratch; make docs/results.md.

    python -m benchmarks.tasks scenes [TASK ...]    # every task on the built-in scenes
    python -m benchmarks.tasks easy-vqa             # easy-VQA, once it is prepared
    python -m benchmarks.tasks table                # docs/results.md from the JSON files

Each result is one JSON file below benchmarks/results/tasks; the table is made of them alone. A
checkpoint is chosen on the validation scenes (seed 101); the test scenes (seed 102) are looked at
once, after that.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tasks"
TABLE = ROOT / "docs" / "results.md"
SCENES = ("vqa", "nlvr2", "snli-ve", "fine-grained", "retrieval")
TEST = {
    "vqa": "scenes:1000?seed=102&size=96",
    "nlvr2": "scenes:2000?seed=102&size=96",
    "snli-ve": "scenes:1500?seed=102&size=96",
    "fine-grained": "scenes:1000?seed=102&size=96",
    "retrieval": "scenes:1000?seed=102&size=96",
}
ARMS = {"pretrained": [], "scratch": ["--scratch"]}
MAIN = {"retrieval": "mean_recall", "fine-grained": "accuracy"}
"""Figure that the table compares; else accuracy."""


def scenes(names: list[str]) -> None:
    """Fine-tune each task both ways, with the same steps, and evaluate it on the test scenes."""
    for name in names or SCENES:
        for arm, flags in ARMS.items():
            out = Path("runs/scenes") / f"{name}-{arm}"
            config = f"configs/scenes/{name}.yaml"
            if not (out / "model" / "config.json").is_file():
                vilta("finetune", config, "--run.out", str(out), "--run.overwrite", *flags)
            record(name, arm, out, TEST[name], "scenes")


def easy_vqa(names: list[str]) -> None:
    """Fine-tune on easy-VQA's training pictures and answer its test questions, once."""
    run, data = Path("runs/easy-vqa/run"), Path("runs/easy-vqa")
    if not (run / "model" / "config.json").is_file():
        vilta("finetune", "benchmarks/easy_vqa/finetune.yaml", "--run.overwrite")
    images = ["--images", str(data / "test-images")]
    record("vqa", "pretrained", run, str(data / "test.csv"), "easy-vqa", *images)


def record(name: str, arm: str, run: Path, data: str, source: str, *flags: str) -> None:
    """Evaluate a run on test data and write the result with how it was trained."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    target = RESULTS / f"{source}-{name}-{arm}.json"
    out = ["--out", str(run / "test.json")]
    vilta("evaluate", name, "--from", str(run), "--data", data, *out, *flags)
    result = json.loads((run / "test.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "seconds" in line][-1]
    result |= {
        "source": source,
        "arm": arm,
        "seed": config["run"]["seed"],
        "steps": trained["step"],
        "batch": config["optimization"]["batch_size"] * config["optimization"]["accumulate"],
        "minutes": round(trained["seconds"] / 60, 1),
        "device": f"{torch.get_num_threads()} CPU threads, {platform.machine()}",
        "command": f"python -m benchmarks.tasks {source}",
    }
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {target.relative_to(ROOT)}")


def vilta(*arguments: str) -> None:
    """Run the command line in a process of its own; ends this one if it fails."""
    subprocess.run([sys.executable, "-m", "vilta", *arguments], check=True)


def table() -> None:
    """Write docs/results.md."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    TABLE.write_text(page(results))
    print(f"wrote {TABLE.relative_to(ROOT)} from {len(results)} results")


def page(results: list[dict[str, Any]]) -> str:
    """Return the page: what was measured, and how."""
    found = {(r["source"], r["task"], r["arm"]): r for r in results}
    lines = [
        "# Results of the tasks",
        "",
        "Made by `python -m benchmarks.tasks table` from the JSON in benchmarks/results/tasks.",
        "Percent on test data that no choice was made on, unless a line says otherwise.",
        "",
    ]
    for source in dict.fromkeys(r["source"] for r in results):
        lines += [f"## {source}", "", HEAD, "|---" * HEAD.count(" | ") + "|---|"]
        for (place, name, arm), result in found.items():
            if place == source:
                lines += _rows(name, arm, result)
        lines.append("")
    return "\n".join(lines)


def _rows(name: str, arm: str, result: dict[str, Any]) -> list[str]:
    figures = result["figures"]
    main = MAIN.get(name, "accuracy")
    rest = [f for f in figures if f != main and f in SHOWN]
    rows = []
    for figure in (main, *rest):
        cells = [
            *(name, arm, figure.replace("_", " "), f"{figures[figure]:.1f}"),
            *(f"{result['items']:,}", f"{result['steps']:,} x {result['batch']}"),
            *(str(result["minutes"]), str(result["seed"])),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


HEAD = "| task | run | figure | % | items | steps x batch | minutes | seed |"
SHOWN = ("paraphrases_accepted", "consistency", "majority", "both_sides")
"""Further figures that the table shows."""


if __name__ == "__main__":
    verb, *names = sys.argv[1:] or ["table"]
    {"scenes": scenes, "easy-vqa": easy_vqa, "table": lambda _: table()}[verb](names)
