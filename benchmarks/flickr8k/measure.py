"""What a pre-trained run has learnt from photos, with intervals, over one seed or several.

    python -m benchmarks.flickr8k.measure runs/flickr8k/run-0 runs/flickr8k/run-1

On the photos of val: how contrast, matching and both together rank; whether matching prefers the
true photo and the true text; masked content words with the photo, with a wrong one and without; and
one-word edits of human captions, by matching and by the masked word. Every line is a mean over
items, averaged over the runs item by item, with a 95 % interval by bootstrap over photos;
differences are paired. Writes the JSON that `python -m benchmarks.tasks table` reads.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from benchmarks.flickr8k.encoders import register
from benchmarks.flickr8k.word_edits import write_edits
from benchmarks.speed.training import read_training
from jaxtyping import Float, Int
from torch import Tensor

from vilta.apps.words import find_words
from vilta.config import DataConfig
from vilta.config.yaml_file import read_mapping
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.masked_words import (
    VIEWS,
    has_wrong_image,
    masked_word_logits,
    word_logits,
)
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    stage_scores,
)
from vilta.finished_run import load_run, load_task
from vilta.metrics.bootstrap import bootstrap_interval
from vilta.metrics.recall import first_hit_rank
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import read_vocabulary
from vilta.tasks.fine_grained import FineGrainedMatching, FineGrainedSettings
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.precision import choose_device

TOP = (16, 32)
"""Candidates of contrast that matching ranks."""
NEIGHBOURS = 100
"""Photos among whose captions the hardest wrong one is looked for."""
MASK_RATE, CONTENT_WEIGHT = 0.15, 4.0
"""Of the masked words that are measured, whatever the run was trained with."""
BATCH = 128
TOLD = dict(zip(VIEWS, ("with the photo", "with a wrong photo", "text alone"), strict=True))
"""The views of masked words, as the result names them."""
RESULT = Path(__file__).parents[1] / "results" / "tasks" / "flickr8k-measures.json"


class Items(NamedTuple):
    """A measure's value for each item, in percent, and the photo that the item is about."""

    photos: list[str]
    values: np.ndarray


Measures = dict[str, Items]


def percent(hits: Tensor) -> np.ndarray:
    """Return hits as 0 or 100."""
    return 100 * hits.double().cpu().numpy()


def measure_run(folder: str, pairs: datasets.Dataset, name: str, edits: Path) -> Measures:
    """Return all measures of one run on the pairs."""
    device = choose_device("auto")
    task, trained, _ = load_run(folder)
    task.to(device).eval()
    print(f"measuring {folder} on {len(pairs):,} photos, {device}", flush=True)
    with torch.no_grad():  # in float32: bf16 has equal scores, and a tie counts as wrong
        images = photo_states(task, pairs, trained.data, name)
        return {
            **rankings(task, pairs, images),
            **masked_words(task, pairs, trained.data, name),
            **word_edits(folder, name, edits, device),
            **edits_by_word(task, pairs, images, edits),
        }


def photo_states(
    task: PretrainingTask, pairs: datasets.Dataset, data: DataConfig, name: str
) -> Float[Tensor, "N P C"]:
    """Encode every photo once."""
    dataset = PairDataset(pairs, data, 0, False, name)
    collator = PairCollator(task.tokenizer, data.max_text_tokens, None, 0)
    loader = evaluation_loader(dataset, collator, batch_size=BATCH)
    return encode_images(task.model, (batch.pixel_values for batch in loader))


def rankings(
    task: PretrainingTask, pairs: datasets.Dataset, images: Float[Tensor, "N P C"]
) -> Measures:
    """Return R@1 both ways by stage, and whether matching prefers what is true."""
    model, captions = task.model, list(pairs["captions"])
    gallery = encode_gallery(model, task.tokenizer, images, captions)
    similarity, true = gallery.similarity, gallery.relevant
    owner = true.int().argmax(dim=0)  # [T], the photo of each text
    texts = torch.arange(len(owner), device=owner.device)
    others = (owner + 1) % len(captions)  # [T], another photo for each text
    blocks = torch.arange(len(captions), device=owner.device) // NEIGHBOURS
    near = (blocks[:, None] == blocks[owner][None]) & ~true
    hardest = similarity.masked_fill(~near, -torch.inf).argmax(dim=1)[owner]  # [T], a text
    wanted = {k: candidate_pairs(similarity, k) for k in TOP}
    asked = wanted[max(TOP)] | true
    asked[others, texts] = True
    asked[owner, hardest] = True
    match = match_scores(model, gallery, asked)
    matched = {k: match.masked_fill(~wanted[k], -torch.inf) for k in TOP}
    scores = {"contrast": similarity}
    for k in TOP:
        stages = stage_scores(similarity, matched[k])
        scores |= {f"matching of {k}": stages["matching"], f"both of {k}": stages["combined"]}
    ids = list(pairs["image_id"])
    of_texts = [ids[i] for i in owner.tolist()]
    found: Measures = {}
    for way, photos in {"image to text": ids, "text to image": of_texts}.items():
        rows = {stage: turned(way, values) for stage, values in scores.items()}
        found |= first_hits(f"R@1 {way}", photos, rows, turned(way, true))
    k = min(TOP)
    plain = {
        "contrast": similarity,
        f"matching of {k}": matched[k],
        f"both of {k}": matched[k] + similarity,
    }
    shares = {stage: of_its_photos(values, similarity, k) for stage, values in plain.items()}
    found |= first_hits("R@1 image to text, of the text's photos", ids, shares, true)
    own = match[owner, texts]
    found["matching: true photo above a random one"] = Items(
        of_texts, percent(own > match[others, texts])
    )
    found[f"matching: true text above the likeliest wrong one of {NEIGHBOURS} photos"] = Items(
        of_texts, percent(own > match[owner, hardest])
    )
    return found


def first_hits(title: str, photos: list[str], scores: dict[str, Tensor], true: Tensor) -> Measures:
    """Return R@1 of each stage, and less that of contrast; a row is a query."""
    ranked = {stage: percent(first_hit_rank(values, true) == 0) for stage, values in scores.items()}
    return {f"{title}, {stage}": Items(photos, hits) for stage, hits in ranked.items()} | {
        f"{title}, {stage} minus contrast": Items(photos, hits - ranked["contrast"])
        for stage, hits in ranked.items()
        if stage != "contrast"
    }


def of_its_photos(
    scores: Float[Tensor, "N T"], similarity: Float[Tensor, "N T"], top_k: int
) -> Float[Tensor, "N T"]:
    """Return scores as log-probabilities over the ``top_k`` likeliest photos of each text.

    What a text scores with any photo is taken off: a caption that suits many of them is no better
    an answer for it. Of the texts of one photo it changes the order, of the photos of a text not.
    """
    likeliest = similarity.topk(min(top_k, len(similarity)), dim=0).indices
    return scores - scores.gather(0, likeliest).logsumexp(dim=0)


def turned(way: str, values: Tensor) -> Tensor:
    """Return values ``[N, T]`` with the queries of a way as rows."""
    return values if way == "image to text" else values.T


def of_views(title: str, photos: list[str], hits: dict[str, np.ndarray]) -> Measures:
    """Return a measure in each of ``VIEWS``."""
    return {f"{title}, {told}": Items(photos, hits[view]) for view, told in TOLD.items()}


def masked_words(
    task: PretrainingTask, pairs: datasets.Dataset, data: DataConfig, name: str
) -> Measures:
    """Return whether masked content words are ranked first, in each view; of every caption."""
    model, captions, ids = task.model, list(pairs["captions"]), list(pairs["image_id"])
    vocabulary = read_vocabulary(task.tokenizer, model.get_input_embeddings().weight.shape[0])
    mask = partial(mask_words, vocabulary=vocabulary, rate=MASK_RATE, content_weight=CONTENT_WEIGHT)
    collator = PairCollator(task.tokenizer, data.max_text_tokens, mask, 0)
    photos: list[str] = []
    hits: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
    for k in range(max(map(len, captions))):
        own = [row for row, group in enumerate(captions) if k < len(group)]
        table = pairs.select(own).remove_columns("captions")
        table = table.add_column("captions", [[captions[row][k]] for row in own])
        dataset = PairDataset(table, data, k, False, name)
        seen = 0
        for batch in evaluation_loader(dataset, collator, batch_size=BATCH):
            width = batch.input_ids.shape[1]
            words = batch.input_ids.flatten()[batch.masked_positions]
            counted = vocabulary.content[words] & has_wrong_image(batch)
            rows = (batch.masked_positions // width)[counted].tolist()
            photos += [ids[own[seen + row]] for row in rows]
            seen += len(batch.input_ids)
            moved = batch.to(model.device)
            for view, logits in masked_word_logits(model, moved).items():
                hits[view].append(percent(logits.argmax(dim=1).cpu() == words)[counted.numpy()])
    joined = {view: np.concatenate(parts) for view, parts in hits.items()}
    image, wrong, text = joined.values()
    title = "masked content words"
    return of_views(title, photos, joined) | {
        f"{title}, photo minus wrong photo": Items(photos, image - wrong),
        f"{title}, photo minus text alone": Items(photos, image - text),
    }


def word_edits(folder: str, images: str, edits: Path, device: torch.device) -> Measures:
    """Return whether captions match better than their edits, and whether other captions match."""
    settings = FineGrainedSettings()
    items = FineGrainedMatching.read(str(edits), images, settings)
    task = load_task(FineGrainedMatching, folder, settings, items)
    task.to(device).eval()
    config = task.model.config
    data = DataConfig(image_size=config.image_size, max_text_tokens=config.max_text_tokens)
    loader = evaluation_loader(
        task.dataset(items, data, 0, train=False),
        task.collator(config.max_text_tokens),
        batch_size=BATCH,
    )
    scored = task.predict(loader)
    photos = [images[0] for images in items.rows["images"]]
    kinds = np.array(items.rows["category"])
    caption, edit, other = np.array([s.match[0] for s in scored]).T
    similarity = np.array([s.similarity for s in scored])
    above, accepted = 100.0 * (caption > edit), 100.0 * (caption > 0)
    found = {"one-word edits: the caption above its edit": Items(photos, above)}
    for kind in dict.fromkeys(kinds.tolist()):
        at = np.flatnonzero(kinds == kind)
        found[f"one-word edits: above, {kind}"] = Items([photos[i] for i in at], above[at])
    return found | {
        "one-word edits: above by contrast": Items(
            photos, 100.0 * (similarity[:, 0] > similarity[:, 1])
        ),
        "one-word edits: edit rejected": Items(photos, 100.0 * (edit <= 0)),
        "one-word edits: caption accepted": Items(photos, accepted),
        "one-word edits: another caption accepted": Items(photos, 100.0 * (other > 0)),
        "one-word edits: another caption minus caption accepted": Items(
            photos, 100.0 * (other > 0) - accepted
        ),
    }


def edits_by_word(
    task: PretrainingTask, pairs: datasets.Dataset, images: Float[Tensor, "N P C"], edits: Path
) -> Measures:
    """Return whether the masked word is likelier the caption's than its edit's, in each view.

    Nothing is matched: the word in question is masked and guessed, as in proofreading. What the
    text alone decides shows how much of such edits can be told without looking.
    """
    with edits.open(newline="") as file:
        rows = list(csv.DictReader(file))
    place = {image: at for at, image in enumerate(pairs["image_id"])}
    found: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        own = torch.tensor([place[row["image"]] for row in some], device=images.device)
        caption, edit = (
            word_log_probabilities(task, [(row[a], row[b]) for row in some], images, own)
            for a, b in (("caption", "edit"), ("edit", "caption"))
        )
        for view, hits in found.items():
            hits.append(percent(caption[view] > edit[view]))
    photos = [row["image"] for row in rows]
    joined = {view: np.concatenate(parts) for view, parts in found.items()}
    title, less = "one-word edits by the masked word", joined["with_image"] - joined["text_only"]
    return of_views(title, photos, joined) | {
        f"{title}, photo minus text alone": Items(photos, less)
    }


def word_log_probabilities(
    task: PretrainingTask,
    texts: list[tuple[str, str]],
    images: Float[Tensor, "N P C"],
    own: Int[Tensor, "B"],
) -> dict[str, Float[Tensor, "B"]]:
    """Return the log-probability of the words that each first text does not share with its second.

    They are masked, and read with the text's ``own`` image, with the next one, and alone; the
    logarithms of a word of several tokens are added up.
    """
    model, tokenizer, device = task.model, task.tokenizer, task.model.device
    longest = model.config.max_text_tokens
    first, second = (
        [find_words(tokenizer, text, longest) for text in side] for side in zip(*texts, strict=True)
    )
    tokens = tokenizer.pad({"input_ids": [ids[0] for ids, _ in first]}, return_tensors="pt")
    ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    for row, (_, words), (_, others) in zip(masked, first, second, strict=True):
        for word in words[differing([w.text for w in words], [w.text for w in others])]:
            row[list(word.tokens)] = True
    at, rows, own_words = masked.flatten().nonzero()[:, 0], masked.nonzero()[:, 0], ids[masked]
    blanked = ids.masked_fill(masked, tokenizer.mask_token_id)
    views = word_logits(model, blanked, mask, at, images[own], images[(own + 1) % len(images)])
    return {
        view: torch.zeros(len(texts), device=device).index_add(
            0, rows, logits.log_softmax(dim=1).gather(1, own_words[:, None])[:, 0]
        )
        for view, logits in views.items()
    }


def differing(first: list[str], second: list[str]) -> slice:
    """Return the part of ``first`` between what both begin with and what both end with."""
    begin = count_shared(first, second)
    return slice(begin, len(first) - count_shared(first[begin:][::-1], second[begin:][::-1]))


def count_shared(first: list[str], second: list[str]) -> int:
    """Return with how many equal items both begin."""
    same = (a == b for a, b in zip(first, second, strict=False))
    return sum(1 for _ in takewhile(bool, same))


def summary(
    runs: list[Path], measured: list[Measures], photos: int, minutes: float
) -> dict[str, Any]:
    """Return the result over the runs: values are averaged item by item."""
    seeds = [read_mapping(run / "config.yaml")["run"]["seed"] for run in runs]
    trained = [read_training(run) for run in runs]
    intervals: dict[str, dict[str, float]] = {}
    by_seed: dict[str, dict[str, float]] = {}
    for title, items in measured[0].items():
        each = np.array([found[title].values for found in measured])
        intervals[title] = bootstrap_interval(items.photos, each.mean(axis=0))._asdict()
        rows = zip(seeds, each, strict=True)
        by_seed[title] = {str(seed): float(values.mean()) for seed, values in rows}
    told = f"seed {seeds[0]}, one seed" if len(seeds) == 1 else f"mean of seeds {seeds}"
    return {
        "note": f"The {photos:,} photos of Flickr8k's val, on which the checkpoint was also chosen;"
        f" {told}; intervals by bootstrap over photos, differences paired.\n`of 16`: matching "
        "ranks the first 16 of contrast; `both` adds the two scores. `of the text's photos`: a "
        "score as a softmax over the text's 16 likeliest photos, which needs the whole gallery. "
        "Content words: "
        f"{len(measured[0]['masked content words, with the photo'].photos):,} words that are no "
        "stop-words, 15 % of each caption masked.\nOne-word edits: "
        "`python -m benchmarks.flickr8k.word_edits`; another caption is a person's, of the same "
        "photo. By the masked word: the caption's word, masked, is guessed with more probability "
        "than its edit's; nothing is matched.",
        "source": "flickr8k",
        "items": photos,
        "role": "validation: the checkpoint was chosen on these; not a test figure",
        "intervals": intervals,
        "by seed": by_seed,
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "minutes": round(sum(t["minutes"] for t in trained), 1),
        "steps": [t["steps"] for t in trained],
        "measuring minutes": round(minutes, 1),
        "device": " and ".join(sorted({t["device"] for t in trained})),
        "command": f"python -m benchmarks.flickr8k.measure {' '.join(map(str, runs))}",
    }


def main() -> None:
    """Measure the runs and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="runs that differ in their seed")
    parser.add_argument("--data", default="runs/flickr8k/val", help="packed pairs")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--title", default="What pre-training learnt from photos")
    args = parser.parse_args()
    register()
    begun = time.monotonic()
    pairs = load_pairs(args.data)
    with tempfile.TemporaryDirectory() as folder:
        edits = Path(folder) / "edits.csv"
        write_edits(pairs.select_columns(["image_id", "captions"]), edits)
        measured = [measure_run(str(run), pairs, args.data, edits) for run in args.runs]
    minutes = (time.monotonic() - begun) / 60
    result = {"title": args.title} | summary(args.runs, measured, len(pairs), minutes)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for title, value in result["intervals"].items():
        print(f"{title:70} {value['mean']:6.1f} ({value['low']:.1f} to {value['high']:.1f})")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
