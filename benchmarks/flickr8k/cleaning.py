"""Does `vilta clean` help? Training on noisy, cleaned and clean captions, in equal steps.

    python -m benchmarks.flickr8k.cleaning runs/flickr8k runs/flickr8k/cleaning-0 --seed 0
    python -m benchmarks.flickr8k.cleaning collect runs/flickr8k/cleaning-0

A fifth of the training captions change places. A small model learns from the noisy pairs, is
calibrated on noisy photos that it has not seen, and `vilta clean` throws out the pairs it finds
unlikely; no part of that knows which captions are wrong. Contrast is then trained from the same
start in the same steps on the noisy captions, on what cleaning left of them, and on the true ones,
and measured on the photos of val.

Both encoders are frozen, so each photo and each caption is encoded once and a training takes
seconds: a comparison of captions, not the best that the data can give. A part that is finished is
not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import torch
from benchmarks.flickr8k.encoders import register
from benchmarks.flickr8k.frozen_training import (
    CAPTIONS,
    CONTRAST,
    HELD_OUT,
    PHOTOS,
    SIZE,
    Encoded,
    encoded,
    new_model,
    read,
    train_cleaner,
    train_contrast,
    with_captions,
)

from vilta.commands import clean
from vilta.config.apps import CleanConfig
from vilta.data.samples import moved_captions
from vilta.metrics.bootstrap import bootstrap_interval
from vilta.metrics.recall import first_hit_rank
from vilta.model.heads import ContrastiveHead, unit_vectors
from vilta.training.precision import describe_device

NOISE = 0.2
"""Share of the captions that change places."""
KEEP_ABOVE = 0.5
"""Probability of a match that a pair must reach; fixed before any figure was seen."""
ARMS = {
    "noisy": "noisy captions",
    "cleaned": f"what --keep-above {KEEP_ABOVE} keeps",
    "ranked": "as many with the best score",
    "clean": "true captions",
}
"""Arm -> what it is trained on. The score is matching and contrast together."""
COMPARED = (
    ("clean", "noisy"),
    ("cleaned", "noisy"),
    ("ranked", "noisy"),
    ("ranked", "cleaned"),
    ("ranked", "clean"),
)
WAYS = ("image to text", "text to image")
RESULT = Path(__file__).parents[1] / "results" / "tasks" / "flickr8k-cleaning.json"


@torch.no_grad()
def hits(head: ContrastiveHead, val: Encoded) -> dict[str, list[bool]]:
    """Return for each photo, and for each caption, whether contrast ranks a true one first."""
    similarity = unit_vectors(head.image, val.images) @ unit_vectors(head.text, val.texts).T
    true = torch.arange(len(val.images))[:, None] == val.owner[None]
    ranks = first_hit_rank(similarity, true), first_hit_rank(similarity.T, true.T)
    return {way: (rank == 0).tolist() for way, rank in zip(WAYS, ranks, strict=True)}


def area_under_roc(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the chance that a good score is above a bad one; a tie counts one half."""
    ordered = np.sort(bad)
    below = np.searchsorted(ordered, good, "left") + np.searchsorted(ordered, good, "right")
    return float(below.mean() / (2 * len(bad)))


def found_pairs(pairs: list[dict[str, Any]], true: datasets.Dataset) -> dict[str, Any]:
    """Compare the pairs of `vilta clean` with the true captions: area under ROC, share kept."""
    own = [set(group) for group in true["captions"]]
    photos = np.array([pair["row"] for pair in pairs])
    right = np.array([pair["caption"] in own[pair["row"]] for pair in pairs])
    told: dict[str, Any] = {"pairs": len(pairs), "wrong": int((~right).sum())}
    random = np.random.default_rng(0)
    for name in ("score", "probability"):
        values = np.array([pair[name] for pair in pairs])
        areas = []
        for _ in range(300):  # whole photos are drawn
            times = np.bincount(random.integers(len(own), size=len(own)), minlength=len(own))
            drawn, true_ones = (np.repeat(x, times[photos]) for x in (values, right))
            areas.append(area_under_roc(drawn[true_ones], drawn[~true_ones]))
        low, high = np.percentile(areas, [2.5, 97.5])
        area = {"mean": area_under_roc(values[right], values[~right]), "low": low, "high": high}
        told[f"area, {name}"] = {bound: 100 * float(value) for bound, value in area.items()}
    kept = np.array([pair["probability"] >= KEEP_ABOVE for pair in pairs])
    for name, which in (("true kept", right), ("wrong kept", ~right)):
        told[name] = bootstrap_interval(photos[which], 100.0 * kept[which])._asdict()
    return told


def run(folder: Path, out: Path, seed: int) -> None:
    """Make the noise, train, clean and measure; write ``out``/measured.json."""
    begun = time.monotonic()
    data, val = (encoded(folder, split, out.parent / "encoded") for split in ("train", "val"))
    table = read(folder, "train")
    trained = len(table) - HELD_OUT
    groups = table["captions"][:]
    flat = [caption for group in groups for caption in group]
    row_of_text = {caption: i for i, caption in enumerate(flat)}
    moved = moved_captions(len(flat), NOISE, seed)
    texts: dict[str, dict[int, list[int]]] = {arm: {} for arm in ARMS}
    for i, photo in enumerate(data.owner.tolist()):
        texts["clean"].setdefault(photo, []).append(i)
        texts["noisy"].setdefault(photo, []).append(moved.get(i, i))
    captions = [[flat[i] for i in texts["noisy"][photo]] for photo in range(len(table))]
    noisy = with_captions(table, captions)

    def trained_head(arm: str) -> ContrastiveHead:
        head = new_model(folder, seed).itc_head
        kept = {photo: rows for photo, rows in texts[arm].items() if photo < trained}
        print(f"{arm}: {sum(map(len, kept.values())):,} captions, {len(kept):,} photos", flush=True)
        train_contrast(head, data, kept, seed)
        return head

    if not (out / "found" / "kept").exists():
        if not (out / "noisy-pairs").exists():
            noisy.select(range(trained)).save_to_disk(str(out / "noisy-pairs"))
        train_cleaner(folder, trained_head("noisy"), noisy, data, out / "cleaner", seed)
        config = CleanConfig(out=str(out / "found"), keep_above=KEEP_ABOVE)
        clean.run(str(out / "cleaner"), str(out / "noisy-pairs"), config)
    pairs = pyarrow.parquet.read_table(out / "found" / "pairs.parquet").to_pylist()
    above = [pair for pair in pairs if pair["probability"] >= KEEP_ABOVE]
    best = sorted(pairs, key=lambda pair: -pair["score"])[: len(above)]
    for arm, kept in (("cleaned", above), ("ranked", best)):
        for pair in kept:  # the rows of the pairs are the photos
            texts[arm].setdefault(pair["row"], []).append(row_of_text[pair["caption"]])
    for arm in ARMS:
        if not (out / f"hits-{arm}.json").exists():
            (out / f"hits-{arm}.json").write_text(json.dumps(hits(trained_head(arm), val)))
    told = {
        "seed": seed,
        "hits": {arm: json.loads((out / f"hits-{arm}.json").read_text()) for arm in ARMS},
        "found": found_pairs(pairs, table.select(range(trained))),
        "owners": val.owner.tolist(),
        "minutes": (time.monotonic() - begun) / 60,
        "device": describe_device(torch.device("cpu")),
    }
    (out / "measured.json").write_text(json.dumps(told))


def summary(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the result over the runs, which differ in their seed: values averaged item by item."""
    measured = [json.loads((run / "measured.json").read_text()) for run in runs]
    seeds = [told["seed"] for told in measured]
    first = measured[0]
    photos = max(first["owners"]) + 1
    owners = {WAYS[0]: list(range(photos)), WAYS[1]: first["owners"]}
    intervals: dict[str, Any] = {}
    for way, groups in owners.items():
        mean = {
            arm: 100 * np.mean([told["hits"][arm][way] for told in measured], axis=0)
            for arm in ARMS
        }
        for arm, name in ARMS.items():
            intervals[f"R@1 {way}, {name}"] = bootstrap_interval(groups, mean[arm])._asdict()
        for arm, base in COMPARED:
            name = f"R@1 {way}, {ARMS[arm]} minus {ARMS[base]}"
            intervals[name] = bootstrap_interval(groups, mean[arm] - mean[base])._asdict()
    titles = {
        "area, score": "area under ROC x 100, matching and contrast together",
        "area, probability": "area under ROC x 100, match probability",
        "true kept": f"true captions kept above {KEEP_ABOVE}",
        "wrong kept": f"wrong captions kept above {KEEP_ABOVE}",
    }
    for told in measured:
        for key, title in titles.items():
            intervals[f"{title}, seed {told['seed']}"] = told["found"][key]
    pairs = CONTRAST.steps * int(CONTRAST.batch_size)
    which = f"one seed ({seeds[0]})" if len(seeds) == 1 else f"mean of seeds {seeds}"
    return {
        "title": "Cleaning a noisy data set with a model trained on it",
        "note": f"{PHOTOS - HELD_OUT:,} photos of Flickr8k with {CAPTIONS} captions each, "
        f"{NOISE:.0%} of the captions moved to other photos; {which}. A model trained on the "
        f"noisy pairs cleans them (`vilta clean --keep-above {KEEP_ABOVE}`); it is calibrated on "
        f"{HELD_OUT} noisy photos that train nothing.\nEach arm: contrast trained on {pairs:,} "
        f"pairs over frozen encoders (EfficientNet-Lite0 at {SIZE} pixels, MiniLM), from the same "
        f"start in the same steps. R@1 among the {photos:,} photos of val.\nIntervals by bootstrap "
        "over photos, differences paired; they do not hold the spread over seeds.",
        "source": "flickr8k",
        "task": "cleaning",
        "items": photos,
        "role": "validation: nothing was chosen on it",
        "intervals": intervals,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "steps": CONTRAST.steps,
        "batch": CONTRAST.batch_size,
        "found": [told["found"] for told in measured],
        "minutes": round(sum(told["minutes"] for told in measured), 1),
        "device": first["device"],
        "command": "python -m benchmarks.flickr8k.cleaning collect "
        + " ".join(f"runs/flickr8k/{run.name}" for run in runs),
    }


def main() -> None:
    """Run one seed, or collect the seeds that were run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("first", help="folder of `prepare`, or `collect`")
    parser.add_argument("folders", type=Path, nargs="+", help="where to write; runs to collect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    register()
    if given.first != "collect":
        run(Path(given.first), given.folders[0], given.seed)
        return
    result = summary(given.folders)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    for title, value in result["intervals"].items():
        print(f"{title:70} {value['mean']:6.1f} ({value['low']:.1f} to {value['high']:.1f})")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
