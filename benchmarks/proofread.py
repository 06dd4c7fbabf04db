"""How often proofreading finds the wrong word of a one-word edit, and leaves a true caption alone.

    python -m benchmarks.proofread scenes runs/demo
    python -m benchmarks.proofread photos runs/flickr8k/run-0 \
        --edits runs/flickr8k/word-edits.csv --images runs/flickr8k/val

Scenes: edits of colours, shapes and counts that an oracle knows to be false. Photos: the edits of
`benchmarks.flickr8k.word_edits`. The threshold is chosen on other scenes (another seed), or on
other photos (every second one), so that nine in ten true captions have no flagged word. Intervals
are by bootstrap over pictures. Writes the JSON that `python -m benchmarks.tasks table` reads.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import datasets
from benchmarks.flickr8k.encoders import register

from vilta.apps.image_input import ImageInput
from vilta.apps.matcher import Matcher
from vilta.apps.proofreading import Proofreading, flag_threshold, model_vocabulary, proofread
from vilta.data.samples import image_bytes
from vilta.data.sources import load_pairs
from vilta.metrics.bootstrap import bootstrap_interval
from vilta.scenes import captions, draw, make_scene, one_word_edits
from vilta.scenes.words import WordClass
from vilta.training.precision import describe_device

KINDS: tuple[WordClass, ...] = ("colour", "shape", "count")
"""Words of scenes that are exchanged."""
CHOOSE, MEASURE = 8_001, 8_103
"""Seeds of the scenes that set the threshold, and of those that are measured."""
AIM = 90.0
"""Percent of the wrong words of each kind to flag, and of the true captions to leave alone."""
RESULTS = Path(__file__).parent / "results" / "tasks"


class Item(NamedTuple):
    """A picture with a true caption, and edits of it by kind."""

    picture: str
    image: ImageInput
    caption: str
    edits: dict[str, str]


def scenes(seed: int, count: int, size: int) -> Iterator[Item]:
    """Yield scenes with a true caption and at most one edit of each kind."""
    rng = Random(seed)
    for index in range(count):
        scene = make_scene(seed, index)
        caption = rng.choice(captions(scene))
        found = {kind: one_word_edits(scene, caption, rng, 1, kind) for kind in KINDS}
        edits = {str(kind): edit[0] for kind, edit in found.items() if edit}
        yield Item(str(index), draw(scene, size), caption, edits)


def photos(edits: Path, images: str, second: bool, count: int) -> Iterator[Item]:
    """Yield the edited captions of every other photo, ``count`` of them at most."""
    table = load_pairs(images).cast_column("image", datasets.Image(decode=False))
    row_of = {image_id: row for row, image_id in enumerate(table["image_id"])}
    with edits.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row_of[row["image"]] % 2 == second]
    chosen = Random(0).sample(rows, min(count, len(rows)))
    for row in chosen:
        image = image_bytes(table[row_of[row["image"]]]["image"])
        yield Item(row["image"], image, row["caption"], {row["category"]: row["edit"]})


class Checks(NamedTuple):
    """What proofreading says of an item: its true caption, and its edits by kind."""

    item: Item
    true: Proofreading
    edits: dict[str, Proofreading]


def check(matcher: Matcher, items: Iterator[Item], with_edits: bool) -> list[Checks]:
    """Proofread the captions of all items, and their edits."""
    model: Any = matcher.model
    vocabulary = model_vocabulary(model, matcher.tokenizer)
    found = []
    for item in items:
        image = matcher.encode_images([item.image])
        true, *edited = (
            proofread(model, matcher.tokenizer, image, text, vocabulary)
            for text in (item.caption, *(item.edits.values() if with_edits else ()))
        )
        found.append(Checks(item, true, dict(zip(item.edits, edited, strict=False))))
        if len(found) % 100 == 0:
            print(f"{len(found)} captions", flush=True)
    return found


def wrong_word(caption: str, edit: str, found: Proofreading) -> int:
    """Return the number of the word of ``found`` (about the edit) that is not in the caption."""
    first = next(i for i, (a, b) in enumerate(zip_longest(caption, edit)) if a != b)
    return max(i for i, word in enumerate(found.words) if word.start <= first)


def measures(checked: list[Checks]) -> dict[str, tuple[list[str], list[float]]]:
    """Return for each measure the pictures and the values of its items, in percent."""
    found: dict[str, tuple[list[str], list[float]]] = {}

    def add(name: str, picture: str, hit: bool) -> None:
        pictures, values = found.setdefault(name, ([], []))
        pictures.append(picture)
        values.append(100.0 * hit)

    for item, true, edits in checked:
        for kind, edited in edits.items():
            words, wrong = edited.words, wrong_word(item.caption, item.edits[kind], edited)
            worst = max(range(len(words)), key=lambda i: (words[i].better > 0, words[i].suspicion))
            for name in ("all edits", kind):
                add(f"{name}: wrong word flagged", item.picture, words[wrong].flagged)
                add(f"{name}: wrong word the most suspicious", item.picture, worst == wrong)
        add("true captions: no word flagged", item.picture, not true.flagged)
    return found


def aims_told(intervals: dict[str, dict[str, float]]) -> str:
    """Return which of the aims were missed, for measures as ``measures`` names them."""
    aims = [f"{kind}: wrong word flagged" for kind in KINDS] + ["true captions: no word flagged"]
    means = {aim: intervals[aim]["mean"] for aim in aims if aim in intervals}
    missed = [f"{aim} ({mean:.1f})" for aim, mean in means.items() if mean < AIM]
    return f"Aimed at {AIM:.0f} % of each kind and of the true captions; missed: " + (
        ", ".join(missed) or "none"
    )


def main() -> None:
    """Choose the threshold, measure, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", choices=("scenes", "photos"))
    parser.add_argument("run", help="a run or a released model")
    parser.add_argument("--about", default="one run", help="the run, in words")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/tasks")
    parser.add_argument("--edits", type=Path, help="of photos")
    parser.add_argument("--images", help="packed pairs with the photos")
    parser.add_argument("--choose", type=int, default=600, help="captions that set the threshold")
    parser.add_argument("--measure", type=int, default=600, help="captions that are measured")
    given = parser.parse_args()
    register()
    begun = time.monotonic()
    matcher = Matcher(given.run)
    if given.data == "scenes":
        size = matcher.image_size
        first, second = scenes(CHOOSE, given.choose, size), scenes(MEASURE, given.measure, size)
        about = f"{given.choose} captions of scenes of seed {CHOOSE}; measured on seed {MEASURE}"
        command = given.run
    else:
        first, second = (
            photos(given.edits, given.images, part, count)
            for part, count in ((False, given.choose), (True, given.measure))
        )
        about = f"{given.choose} captions of every second photo of val; measured on the others"
        command = f"{given.run} --edits runs/flickr8k/word-edits.csv"
        command += " --images runs/flickr8k/val"
    suspicions = [checks.true.highest_suspicion for checks in check(matcher, first, False)]
    matcher.model.config.suspicion_threshold = flag_threshold(suspicions)
    found = measures(check(matcher, second, True))
    edits = len(found["all edits: wrong word flagged"][0])
    result: dict[str, Any] = {
        "title": f"Proofreading: one-word edits of {given.data}, {given.about}",
        "note": f"{edits:,} edits of {given.measure:,} captions, {given.about}. The threshold "
        f"({matcher.model.config.suspicion_threshold:.2f}) was set on {about}.\nIntervals by "
        "bootstrap over pictures.",
        "source": "scenes" if given.data == "scenes" else "flickr8k",
        "task": "proofread",
        "role": "test"
        if given.data == "scenes"
        else "validation: the checkpoint was chosen on these photos",
        "items": edits,
        "seed": MEASURE if given.data == "scenes" else 0,
        "device": describe_device(matcher.device),
        "intervals": {
            name: bootstrap_interval(*items)._asdict() for name, items in sorted(found.items())
        },
        "counts": {name: len(items[0]) for name, items in sorted(found.items())},
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "command": f"python -m benchmarks.proofread {given.data} {command} "
        f"--choose {given.choose} --measure {given.measure}",
    }
    if given.data == "scenes":
        result["note"] += f"\n{aims_told(result['intervals'])}."
    path = given.out or RESULTS / f"{result['source']}-proofread.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result["intervals"].items():
        print(f"{name:60} {value['mean']:6.1f} ({value['low']:.1f} to {value['high']:.1f})")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
