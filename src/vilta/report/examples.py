"""Examples of what a model does: images and captions that it finds, words that it fills, negatives.

All are from the first rows of the data; none is selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vilta.config import PretrainConfig
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    stage_scores,
    trained_ranking,
)
from vilta.report.caption_examples import CaptionExamples, caption_examples, pixels_of
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.precision import autocast, choose_device

SHOWN = 5
"""Images or captions shown for a query; our choice."""


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """The best images for a caption, best first; rows of the data."""

    caption: str
    right: int
    images: tuple[int, ...]
    rank: int
    """Rank of the right image among all images, from 1."""


@dataclass(frozen=True, kw_only=True)
class FoundCaptions:
    """The best captions for an image, best first, each with whether it was written for it."""

    image: int
    captions: tuple[tuple[str, bool], ...]
    rank: int
    """Rank of the first right caption among all captions, from 1."""


@dataclass(frozen=True, kw_only=True)
class ModelExamples(CaptionExamples):
    """All examples of a report."""

    found_images: list[FoundImages]
    found_captions: list[FoundCaptions]
    ranking: str
    """Stage of the retrieval that ranked the results."""


@torch.no_grad()
def collect_examples(
    task: PretrainingTask, trained: PretrainConfig, evaluation: dict[str, Any], count: int
) -> ModelExamples:
    """Compute examples for the first ``count`` rows of the data of an evaluation.

    Masks, candidates and seed are those of the evaluation, so the examples are part of what its
    metrics count. Raises ``ValueError`` in one line if the data cannot be read.
    """
    seed = evaluation.get("seed", 0)
    device = choose_device("auto")
    task.to(device).eval()
    dataset = PairDataset(
        load_pairs(evaluation["data"], strict=trained.data.strict),
        trained.data,
        seed,
        False,
        evaluation["data"],
    )
    collator = task.collator(trained.data.max_text_tokens, seed)
    bf16 = evaluation.get("precision", "").startswith("bf16")  # as the metrics were computed
    dtype = torch.bfloat16 if bf16 else torch.float32
    with autocast(device, dtype), torch.random.fork_rng():
        torch.manual_seed(seed)
        loader = evaluation_loader(dataset, collator, batch_size=128)
        rows = min(count, len(dataset))
        found_images, found_captions = _found(
            task, loader, dataset.table["captions"], rows, evaluation
        )
        examples = caption_examples(task, dataset, collator, rows)
    named = {row for found in found_images for row in (found.right, *found.images)}
    return ModelExamples(
        pixels=pixels_of(dataset, named) | examples.pixels,
        masked=examples.masked,
        rewritten=examples.rewritten,
        edited=examples.edited,
        filter_name=examples.filter_name,
        found_images=found_images,
        found_captions=found_captions,
        ranking=trained_ranking(task.objective),
    )


def _found(
    task: PretrainingTask,
    loader: Any,
    captions: Sequence[Sequence[str]],
    count: int,
    evaluation: dict[str, Any],
) -> tuple[list[FoundImages], list[FoundCaptions]]:
    """Search all of the data, as the evaluation does, for the first images and captions."""
    texts = [caption for group in captions for caption in group]
    firsts = np.cumsum([0, *(len(group) for group in captions)])[:count].tolist()
    images = encode_images(task.model, (batch.pixel_values for batch in loader))
    gallery = encode_gallery(task.model, task.tokenizer, images, captions)
    top_k = evaluation.get("candidates", "all")
    match, ranking = None, trained_ranking(task.objective)
    if ranking != "contrastive":
        every = top_k == "all" or ranking == "matching"
        wanted = candidate_pairs(gallery.similarity, gallery.similarity.numel() if every else top_k)
        asked = torch.zeros_like(wanted)  # only these queries are shown, so only they are scored
        asked[:count], asked[:, firsts] = True, True
        match = match_scores(task.model, gallery, wanted & asked)
    scores = stage_scores(gallery.similarity, match)[ranking]

    found_images = [
        FoundImages(
            caption=texts[column],
            right=row,
            images=tuple(_best(scores[:, column])),
            rank=_rank(scores[:, column], gallery.relevant[:, column]),
        )
        for row, column in enumerate(firsts)
    ]
    found_captions = [
        FoundCaptions(
            image=row,
            captions=tuple((texts[i], bool(gallery.relevant[row, i])) for i in _best(scores[row])),
            rank=_rank(scores[row], gallery.relevant[row]),
        )
        for row in range(count)
    ]
    return found_images, found_captions


def _best(scores: Float[Tensor, "X"]) -> list[int]:
    """Return the indices of the highest scores."""
    return scores.topk(min(SHOWN, len(scores))).indices.tolist()


def _rank(scores: Float[Tensor, "X"], relevant: Bool[Tensor, "X"]) -> int:
    """Return the rank of the best relevant entry, from 1."""
    return 1 + int((scores > scores[relevant].max()).sum())
