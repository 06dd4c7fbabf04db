"""What a pre-trained run knows of photos: SNLI-VE, DAQUAR and VQA v2, against two baselines.

    python -m benchmarks.flickr8k.downstream run NAME OUT --from RUN --data DATA [--seed S]
    python -m benchmarks.flickr8k.downstream collect NAME OUT [OUT OF ANOTHER SEED ...]

NAME is ``snli-ve``, ``daquar`` or ``vqa``; ``DATA`` holds ``snli_ve_dev.jsonl``, ``daquar/`` and
``coco_vqa/``. ``run`` writes the splits, trains every arm in the same steps with the same settings
and answers the held-out questions: ``image`` from the pre-trained run, ``blind`` the same on grey
images, ``scratch`` from random weights. What is done already is kept, so the arms may be trained
side by side (``--arms blind``), each by a process of its own. Further flags go to
`vilta finetune`, such as ``--epochs 0.1`` for a trial. ``collect`` compares the answers with the
truth.

The number of epochs is fixed in the YAML file beforehand and the last weights answer, so nothing is
chosen on the questions that are measured. Intervals are bootstrapped over photos, because questions
about one photo are not independent.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.flickr8k.daquar import Daquar, answer_scores
from benchmarks.flickr8k.encoders import register
from benchmarks.speed.training import read_training

from vilta import cli
from vilta.metrics.bootstrap import bootstrap_interval
from vilta.metrics.vqa_accuracy import vqa_accuracy
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.snli_ve import VisualEntailment
from vilta.tasks.vqa import VisualQuestionAnswering

ARMS = {"image": [], "blind": ["--data.blind"], "scratch": ["--scratch"]}
RESULTS = Path(__file__).parents[1] / "results" / "tasks"
HERE = "benchmarks/flickr8k"

Rows = list[dict[str, Any]]
Scores = dict[str, list[float]]
"""Name of a measure to the score of each item, in [0, 1]."""


class Fold(NamedTuple):
    """Items to train on, and items to answer."""

    train: str
    val: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set: how it is split, read and scored."""

    title: str
    note: str
    task: type[FinetuningTask]
    images: Callable[[Path], str]
    """Where the photos are, below the folder of the data."""
    split: Callable[[Path, Path], None]
    """Write the files that ``folds`` names."""
    folds: Callable[[Path, Path], list[Fold]]
    """The folds, given the folders of the data and of the run."""
    score: Callable[[list[str], Rows], Scores]


def fold_of(photo: str, folds: int) -> int:
    """Return the fold of a photo, which follows from its name."""
    return int(hashlib.sha256(photo.encode()).hexdigest(), 16) % folds


SNLI_FOLDS, DAQUAR_TENTHS = 3, 10


def split_snli(data: Path, out: Path) -> None:
    """Write train-K.jsonl and val-K.jsonl of whole photos."""
    lines = [line for line in (data / "snli_ve_dev.jsonl").read_text().splitlines() if line]
    folds = [fold_of(json.loads(line)["Flickr30K_ID"], SNLI_FOLDS) for line in lines]
    for k in range(SNLI_FOLDS):
        for name, inside in {"val": True, "train": False}.items():
            chosen = [li for li, fold in zip(lines, folds, strict=True) if (fold == k) == inside]
            write_whole(out / f"{name}-{k}.jsonl", "\n".join(chosen) + "\n")


def split_daquar(data: Path, out: Path) -> None:
    """Write train.csv and val.csv: a tenth of the photos is held out."""
    with (data / "daquar" / "train.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    for name, inside in {"val": True, "train": False}.items():
        chosen = [li for li in lines if (fold_of(li[0], DAQUAR_TENTHS) == 0) == inside]
        written = io.StringIO(newline="")
        csv.writer(written, lineterminator="\n").writerows([head, *chosen])
        write_whole(out / f"{name}.csv", written.getvalue())


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read, or write just so, at the same time."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)


def score_labels(given: list[str], rows: Rows) -> Scores:
    """Score labels."""
    return {"accuracy": [float(g == r["label"]) for g, r in zip(given, rows, strict=True)]}


def score_answers(given: list[str], rows: Rows) -> Scores:
    """Score answers by VQA's official rule."""
    pairs = zip(given, rows, strict=True)
    return {"accuracy": [vqa_accuracy(g, r["answers"]) for g, r in pairs]}


BENCHMARKS = {
    "snli-ve": Benchmark(
        title="SNLI-VE on Flickr8k photos",
        note=f"In {SNLI_FOLDS} folds of whole photos: each item is answered once, by a model "
        "trained on the other folds.\nPre-training saw most of the photos with their captions, but "
        "none of these items.",
        task=VisualEntailment,
        images=lambda data: "runs/flickr8k/all",
        split=split_snli,
        folds=lambda data, out: [
            Fold(f"{out}/train-{k}.jsonl", f"{out}/val-{k}.jsonl") for k in range(SNLI_FOLDS)
        ],
        score=score_labels,
    ),
    "daquar": Benchmark(
        title="DAQUAR, a tenth of the training photos held out",
        note="Questions of the official training list about photos that no training saw; the "
        "official test is not used.\nAccuracy: the list of answer words is exactly right. WUPS "
        "as published (arXiv 1410.0210).",
        task=Daquar,
        images=lambda data: f"{data}/daquar/images",
        split=split_daquar,
        folds=lambda data, out: [Fold(f"{out}/train.csv", f"{out}/val.csv")],
        score=lambda given, rows: answer_scores(given, [row["label"] for row in rows]),
    ),
    "vqa": Benchmark(
        title="VQA v2 on 2,176 COCO photos",
        note="A small part of VQA v2's train2014 in the official files, split by photo; accuracy "
        "is the official evaluator's, with ten answers to a question.",
        task=VisualQuestionAnswering,
        images=lambda data: f"{data}/coco_vqa/images",
        split=lambda data, out: None,
        folds=lambda data, out: [Fold(f"{data}/coco_vqa/train", f"{data}/coco_vqa/val")],
        score=score_answers,
    ),
}


def run(args: argparse.Namespace, flags: list[str]) -> None:
    """Train and answer each fold in each arm; ``flags`` go to `vilta finetune`."""
    name, out, data = args.name, args.out, args.data
    benchmark = BENCHMARKS[name]
    out.mkdir(parents=True, exist_ok=True)
    benchmark.split(data, out)
    images = benchmark.images(data)
    folds = benchmark.folds(data, out)
    write_whole(out / "run.json", json.dumps({"data": str(data), "seed": args.seed}))

    def one(arm: str, k: int) -> None:
        folder = out / f"{arm}-{k}"
        if not (folder / "model" / "config.json").is_file():
            where = ["--data.train", folds[k].train, "--data.images", images]
            where += ["--run.out", str(folder), "--run.overwrite", "--run.seed", str(args.seed)]
            how = [f"{HERE}/{name}.yaml", "--from", args.start, *ARMS[arm], *flags]
            vilta("finetune", *how, *where)
        if not (folder / "answers").is_file():
            items = ["--data", folds[k].val, "--images", images]
            vilta("evaluate", str(folder), *items, "--submission", str(folder / "answers"))

    for arm in args.arms:
        for k in range(len(folds)):
            one(arm, k)


def vilta(*arguments: str) -> None:
    """Run the command line with the benchmark's encoder; in this process, which starts but once."""
    register()
    cli.run(list(arguments))


def read_answers(path: Path) -> list[str]:
    """Return the answers of a submission file, in the order of the items."""
    text = path.read_text()
    if text.startswith("["):
        return [a if isinstance(a, str) else a["answer"] for a in json.loads(text)]
    return [line.rpartition(",")[2] for line in text.splitlines()]


def read_scores(name: str, out: Path) -> tuple[list[str], dict[str, Scores]]:
    """Return the photo of each item, and the scores of each arm that was run."""
    benchmark = BENCHMARKS[name]
    folds = benchmark.folds(Path(json.loads((out / "run.json").read_text())["data"]), out)
    settings = benchmark.task.settings_class()
    arms = [arm for arm in ARMS if (out / f"{arm}-{len(folds) - 1}" / "answers").is_file()]
    photos: list[str] = []
    scores: dict[str, Scores] = {}
    for k, fold in enumerate(folds):
        rows = benchmark.task.rows(fold.val, settings)
        photos += [row["images"][0] for row in rows]
        answers = {arm: read_answers(out / f"{arm}-{k}" / "answers") for arm in arms}
        answers["most frequent"] = [_most_frequent(benchmark.task.rows(fold.train, settings))]
        answers["most frequent"] *= len(rows)
        for arm, given in answers.items():
            for measure, values in benchmark.score(given, rows).items():
                scores.setdefault(arm, {}).setdefault(measure, []).extend(values)
    return photos, scores


def _most_frequent(rows: Rows) -> str:
    """Return the answer given most often in training."""
    return Counter(r.get("most_given") or r.get("label", "") for r in rows).most_common(1)[0][0]


def collect(name: str, outs: list[Path]) -> dict[str, Any]:
    """Return the result over the seeds of ``outs``: scores are averaged item by item."""
    read = [read_scores(name, out) for out in outs]
    photos = read[0][0]
    arms = [arm for arm in read[0][1] if all(arm in scores for _, scores in read)]
    runs = [json.loads((out / "run.json").read_text()) for out in outs]
    intervals, by_seed = {}, {}
    for measure in read[0][1][arms[0]]:
        each = {arm: np.array([100 * np.array(s[arm][measure]) for _, s in read]) for arm in arms}
        lines = {arm: each[arm] for arm in arms}
        for other in ("blind", "scratch"):
            if {"image", other} <= each.keys():
                lines[f"image minus {other}"] = each["image"] - each[other]
        for arm, values in lines.items():
            title = f"{arm}, {measure}"
            intervals[title] = bootstrap_interval(photos, values.mean(axis=0))._asdict()
            by_seed[title] = {
                str(r["seed"]): float(row.mean()) for r, row in zip(runs, values, strict=True)
            }
    folders = [f for out in outs for arm in arms for f in out.glob(f"{arm}-[0-9]")]
    trained = [read_training(folder) for folder in folders]
    benchmark, seeds = BENCHMARKS[name], [r["seed"] for r in runs]
    told = f"one seed ({seeds[0]})" if len(seeds) == 1 else f"mean of seeds {seeds}"
    missing = [arm for arm in ARMS if arm not in arms]
    not_run = f"\nNot trained to the end: {', '.join(missing)}." if missing else ""
    return {
        "title": benchmark.title + (f", seed {seeds[0]}" if len(seeds) == 1 else ""),
        "note": f"{len(photos):,} items about {len(set(photos)):,} photos; {told}; intervals by "
        f"bootstrap over photos.\n{benchmark.note}\n`blind` sees grey images, `scratch` starts "
        "from random weights, in the same steps; `most frequent` gives one answer to all."
        f"{not_run}",
        "items": len(photos),
        "role": "test",
        "intervals": intervals,
        "by seed": by_seed,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "minutes": round(sum(r["minutes"] for r in trained), 1),
        "steps": sorted({r["steps"] for r in trained}),
        "device": " and ".join(sorted({r["device"] for r in trained})),
        "command": f"python -m benchmarks.flickr8k.downstream run {name} OUT --from RUN "
        "--data DATA --seed S",
    }


def main() -> None:
    """Train and answer, or compare the answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("run", help="train the arms and answer")
    train.add_argument("name", choices=tuple(BENCHMARKS))
    train.add_argument("out", type=Path)
    train.add_argument("--from", dest="start", required=True, help="the pre-trained run")
    train.add_argument("--data", type=Path, required=True)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    gather = verbs.add_parser("collect", help="compare the answers, of one seed or several")
    gather.add_argument("name", choices=tuple(BENCHMARKS))
    gather.add_argument("outs", type=Path, nargs="+")
    gather.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/tasks")
    args, flags = parser.parse_known_args()
    if flags and args.verb != "run":
        parser.error(f"unknown: {' '.join(flags)}")
    if args.verb == "run":
        run(args, flags)
        args.outs, args.out = [args.out], args.out / "result.json"
    target = args.out or RESULTS / f"flickr8k-{args.name}.json"
    result = collect(args.name, args.outs)
    target.write_text(json.dumps(result, indent=2) + "\n")
    for title, value in result["intervals"].items():
        print(f"{title:40} {value['mean']:5.1f} ({value['low']:.1f} to {value['high']:.1f})")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
