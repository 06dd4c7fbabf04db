"""Which filter keeps synonyms out of the generated negatives, and what it costs in wrong words?

    python -m benchmarks.flickr8k.synonym_filters runs/flickr8k/run-0 runs/flickr8k/val \
        benchmarks/results/synonym-filters.json

Nothing is trained. A finished run masks the captions of held-out photos as it did in training. At
each masked word that has a synonym on the hand-written lists of ``vilta.evaluation.synonyms``, the
words that the text alone expects are candidates for a negative. Some of them are synonyms (true, so
no negatives), some are wrong words of the same kind. Each filter of ``FILTERS`` is asked about
both. The lists know few words, and a "wrong" one may be true of the photo (a man and a boy): of
those, a good filter rejects some as well.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks.flickr8k.encoders import register
from jaxtyping import Bool, Float
from torch import Tensor

from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.synonyms import PHOTOS, Groups, token_groups
from vilta.finished_run import load_run
from vilta.metrics.bootstrap import bootstrap_interval
from vilta.objectives.distillation import without_teacher
from vilta.objectives.hard_negatives import WordFilter, fitting_words
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch, Sample


class Asked(NamedTuple):
    """The ratios of a filter; 0: not asked."""

    student: float
    """Of the model's own opinion of text and image together."""
    teacher: float
    """Of the frozen language model's, which reads the clean caption."""


FILTERS = {
    "none": Asked(0, 0),
    **{f"student {ratio:g}": Asked(ratio, 0) for ratio in (0.3, 0.1, 0.03, 0.01)},
    **{f"teacher {ratio:g}": Asked(0, ratio) for ratio in (0.1, 0.03, 0.01, 0.003)},
    **{f"student 0.1, teacher {ratio:g}": Asked(0.1, ratio) for ratio in (0.03, 0.01, 0.003)},
}
"""``student 0.1, teacher 0.01`` is ``negatives: grounded`` with its defaults."""
BATCH = 50


class OtherCaptions:
    """The samples of a data set with other captions."""

    def __init__(self, samples: PairDataset, captions: list[str]) -> None:
        self.samples, self.captions = samples, captions

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return replace(self.samples[key], caption=self.captions[key[1]])

    def caption_lengths(self, keys: list[tuple[int, int]]) -> list[int]:
        """Return how many characters the captions have."""
        return [len(self.captions[row]) for _, row in keys]


class Word(NamedTuple):
    """A masked word that has a synonym, and what became of its candidates."""

    photo: str
    word: int
    synonyms: dict[int, dict[str, bool]]
    """By candidate: whether each filter lets it through."""
    wrong: dict[int, dict[str, bool]]
    drawn: dict[str, float]
    """By filter: probability that a negative made here is a synonym; NaN where none is left."""


@torch.no_grad()
def judged(task: PretrainingTask, loader: Iterable[Any], groups: Groups) -> list[Word]:
    """Return all masked words of the loader that have a synonym of one token."""
    tables = token_groups(task.tokenizer, groups)
    found = []
    for batch in loader:
        batch = batch.to(task.model.device)
        original = batch.input_ids.flatten()[batch.masked_positions]
        known = [i for i, word in enumerate(original.tolist()) if word in tables]
        if not known:
            continue
        left, logits = left_by_filter(task, batch)
        rows = batch.masked_positions.div(batch.input_ids.shape[1], rounding_mode="floor")
        for i in known:
            synonyms, wrong = tables[int(original[i])]
            fitting = left["none"][i]
            found.append(
                Word(
                    photo=str(int(batch.image_ids[rows[i]])),
                    word=int(original[i]),
                    synonyms=_through(left, i, [t for t in synonyms if fitting[t]]),
                    wrong=_through(left, i, [t for t in wrong if fitting[t]]),
                    drawn={
                        name: _share_drawn(logits[i], words[i], synonyms, task)
                        for name, words in left.items()
                    },
                )
            )
    return found


def left_by_filter(
    task: PretrainingTask, batch: Batch
) -> tuple[dict[str, Bool[Tensor, "M V"]], Float[Tensor, "M V"]]:
    """Return by filter the words that may be drawn, and the logits that they are drawn by."""
    settings = task.objective
    words = task.expected_words(batch, task.model.vilta.encode_image(batch.pixel_values))
    logits = task.generator_logits(batch, words)
    original = batch.input_ids.flatten()[batch.masked_positions]
    texts = batch.input_ids, batch.word_ids, batch.masked_positions
    fitting = fitting_words(*texts, logits, task.words.tables(), settings.min_p)
    assert words.logits is not None
    own = without_teacher(
        words.logits,
        task.soft_labels(batch),
        alpha=task.ramped_alpha,
        temperature=settings.temperature,
        top_k=settings.top_k,
    )
    clean = task.teacher_logits(batch, batch.input_ids)
    left = {}
    for name, ratios in FILTERS.items():
        words_left = fitting
        for opinion, ratio in zip((own, clean), ratios, strict=True):
            if ratio:
                words_left = words_left & ~WordFilter(opinion, ratio).plausible(original)
        left[name] = words_left
    return left, logits.float()


def summary(words: list[Word], task: PretrainingTask) -> dict[str, Any]:
    """Return what each filter lets through, in percent, with 95 % intervals over photos."""
    result: dict[str, Any] = {"words": len(words), "filters": {}}
    for kind in ("synonyms", "wrong"):
        result[kind] = sum(len(getattr(word, kind)) for word in words)
    for name in FILTERS:
        row: dict[str, Any] = {}
        for kind in ("synonyms", "wrong"):
            through = [
                (word.photo, 100.0 * one[name])
                for word in words
                for one in getattr(word, kind).values()
            ]
            row[f"{kind}_let_through"] = _interval(through)
        drawn = [(w.photo, 100 * w.drawn[name]) for w in words if w.drawn[name] == w.drawn[name]]
        row["negatives_that_are_synonyms"] = _interval(drawn)
        row["words_without_negative"] = 100 * (1 - len(drawn) / max(1, len(words)))
        result["filters"][name] = row
    result["pairs"] = _by_pair(words, task)
    return result


def _by_pair(words: list[Word], task: PretrainingTask) -> dict[str, dict[str, float]]:
    """Return by pair of synonyms how often it came up, and how often each filter let it through."""
    pairs: dict[str, list[dict[str, bool]]] = defaultdict(list)
    for word in words:
        for other, through in word.synonyms.items():
            names = task.tokenizer.convert_ids_to_tokens([word.word, other])
            pairs[" / ".join(sorted(name.lstrip("Ġ▁") for name in names))].append(through)
    return {
        pair: {"count": len(found)}
        | {name: 100 * sum(one[name] for one in found) / len(found) for name in FILTERS}
        for pair, found in sorted(pairs.items(), key=lambda item: -len(item[1]))
    }


def _through(
    left: dict[str, Bool[Tensor, "M V"]], position: int, tokens: list[int]
) -> dict[int, dict[str, bool]]:
    return {
        token: {name: bool(words[position, token]) for name, words in left.items()}
        for token in tokens
    }


def _share_drawn(
    logits: Float[Tensor, "V"], left: Bool[Tensor, "V"], synonyms: list[int], task: PretrainingTask
) -> float:
    """Return the probability that the word drawn here is one of the synonyms."""
    settings = task.objective
    scores = logits.masked_fill(~left, -torch.inf)
    top = scores.topk(min(settings.candidates, len(scores)))
    if not top.values.isfinite().any():
        return float("nan")
    chances = (top.values / settings.negative_temperature).softmax(0)
    return float(chances[torch.isin(top.indices, torch.tensor(synonyms))].sum())


def _interval(values: list[tuple[str, float]]) -> dict[str, float] | None:
    if not values:
        return None
    photos, numbers = zip(*values, strict=True)
    found = bootstrap_interval(photos, np.array(numbers))
    return {name: round(value, 2) for name, value in found._asdict().items()}


def main(run: str, data: str, out: str) -> None:
    """Measure a run on a packed data set and write the result."""
    register()
    task, trained, teacher = load_run(run)
    if task.teacher is None:
        raise ValueError(f"this asks the teacher of {run}, which is {teacher}")
    task.eval()
    pairs = load_pairs(data)
    dataset = PairDataset(pairs, trained.data, 0, False, data)
    captions = pairs["captions"]
    words: list[Word] = []
    for number in range(max(map(len, captions))):
        # A photo with fewer captions has its last one again, with other words masked.
        texts = [found[min(number, len(found) - 1)] for found in captions]
        collator = task.collator(trained.data.max_text_tokens, number)
        samples = OtherCaptions(dataset, texts)
        words += judged(task, evaluation_loader(samples, collator, batch_size=BATCH), PHOTOS)
    found = summary(words, task)
    about = {"run": run, "data": data, "photos": len(pairs), "seed": trained.run.seed}
    command = f"python -m benchmarks.flickr8k.synonym_filters {run} {data} {out}"
    Path(out).write_text(json.dumps({**about, **found, "command": command}, indent=1) + "\n")
    for name, row in found["filters"].items():
        shown = (row[k] for k in ("synonyms_let_through", "wrong_let_through"))
        print(name, *("-" if one is None else f"{one['mean']:.1f}" for one in shown))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
