"""ModelExamples of what a model does: found images and captions, filled words, written negatives.

All are of the first rows of the data, and nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vilta.config import PretrainConfig
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.masked_words import VIEWS, masked_word_logits
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    trained_stages,
)
from vilta.scenes import is_true, parse, scene_from_id
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.precision import autocast, choose_device
from vilta.types import Batch, Sample

SHOWN = 5
"""Images or captions shown for a query; our choice."""
GUESSES = 3
"""Words shown for a masked position; our choice."""


class Piece(NamedTuple):
    """A stretch of a caption; ``mark``: it was masked or changed."""

    text: str
    mark: bool


class Guess(NamedTuple):
    """A word for a masked position, with the model's probability of it (0 to 1)."""

    word: str
    probability: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """The best images for a caption, best first; rows of the data."""

    caption: str
    right: int
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FoundCaptions:
    """The best captions for an image, best first, each with whether it was written for it."""

    image: int
    captions: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, kw_only=True)
class MaskedCaption:
    """A caption, its masked tokens as marked pieces, and the guesses for each of these by view."""

    image: int
    wrong_image: int
    caption: tuple[Piece, ...]
    guesses: tuple[dict[str, tuple[Guess, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class RewrittenCaption:
    """A caption and the negative written from it, each with its match probability (0 to 1).

    ``verdict`` is the oracle's on scenes (``false``, ``still true``, ``no sentence``), else empty.
    """

    image: int
    caption: tuple[Piece, ...]
    negative: tuple[Piece, ...]
    match: float
    negative_match: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class ModelExamples:
    """All examples; ``pixels`` holds every image that they name, as the model sees it."""

    pixels: dict[int, UInt8[np.ndarray, "S S 3"]]
    found_images: list[FoundImages]
    found_captions: list[FoundCaptions]
    masked: list[MaskedCaption]
    rewritten: list[RewrittenCaption]
    filter_name: str
    ranking: str
    """The stage of the retrieval that ranked what was found."""


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
    return replace(
        examples,
        pixels=_pixels(dataset, named) | examples.pixels,
        found_images=found_images,
        found_captions=found_captions,
    )


@torch.no_grad()
def caption_examples(
    task: PretrainingTask, dataset: PairDataset, collator: PairCollator, count: int
) -> ModelExamples:
    """Fill masked words and write negatives for the first ``count`` rows; nothing is searched."""
    samples = [dataset[0, row] for row in range(min(count, len(dataset)))]
    batch = collator(samples).to(task.model.device)
    masked = _masked(task, samples, batch)
    rewritten = []
    if task.objective.negatives != "off":
        rewritten = _rewritten(task, samples, batch, dataset.table[0]["source"] == "scenes")
    return ModelExamples(
        pixels=_pixels(dataset, {*range(len(samples)), *(sample.index for sample in samples)}),
        found_images=[],
        found_captions=[],
        masked=masked,
        rewritten=rewritten,
        filter_name=task.objective.negatives,
        ranking=trained_stages(task.objective)[-1],
    )


def _pixels(dataset: PairDataset, rows: set[int]) -> dict[int, UInt8[np.ndarray, "S S 3"]]:
    return {row: dataset[0, row].pixels.permute(1, 2, 0).numpy() for row in sorted(rows)}


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
    scores, stages = gallery.similarity, trained_stages(task.objective)
    if "matching" in stages:
        every = top_k == "all" or "contrastive" not in stages
        wanted = candidate_pairs(scores, scores.numel() if every else top_k)
        asked = torch.zeros_like(wanted)  # only these queries are shown, so only they are scored
        asked[:count], asked[:, firsts] = True, True
        match = match_scores(task.model, gallery, wanted & asked)
        scores = match + scores if "combined" in stages else match

    found_images = []
    for row, column in enumerate(firsts):
        images = _best(scores[:, column])
        found_images.append(FoundImages(caption=texts[column], right=row, images=tuple(images)))
    found_captions = []
    for row in range(count):
        best = [(texts[i], bool(gallery.relevant[row, i])) for i in _best(scores[row])]
        found_captions.append(FoundCaptions(image=row, captions=tuple(best)))
    return found_images, found_captions


def _best(scores: Float[Tensor, "X"]) -> list[int]:
    """Return the indices of the best scored entries; -inf marks what is not a candidate."""
    top = scores.topk(min(SHOWN, len(scores)))
    return top.indices[top.values.isfinite()].tolist()


def _masked(task: PretrainingTask, samples: Sequence[Sample], batch: Batch) -> list[MaskedCaption]:
    """Fill the masked words of each sample, with three views of the image."""
    length = batch.input_ids.shape[1]
    guesses: list[list[dict[str, tuple[Guess, ...]]]] = [[] for _ in samples]
    places: list[list[int]] = [[] for _ in samples]
    logits = masked_word_logits(task.model, batch)
    tops = {view: logits[view].float().softmax(dim=1).topk(GUESSES) for view in VIEWS}
    original = batch.input_ids.flatten()
    for at, position in enumerate(batch.masked_positions.tolist()):
        row, place = divmod(position, length)
        places[row].append(place)
        guesses[row].append(
            {
                view: tuple(
                    Guess(_word(task, token), probability, token == int(original[position]))
                    for token, probability in zip(
                        top.indices[at].tolist(), top.values[at].tolist(), strict=True
                    )
                )
                for view, top in tops.items()
            }
        )
    offsets = _offsets(task, samples, length)
    return [
        MaskedCaption(
            image=sample.index,
            wrong_image=samples[(row + 1) % len(samples)].index,
            caption=_pieces(sample.caption, [offsets[row][place] for place in places[row]]),
            guesses=tuple(guesses[row]),
        )
        for row, sample in enumerate(samples)
        if places[row]
    ]


def _rewritten(
    task: PretrainingTask, samples: Sequence[Sample], batch: Batch, are_scenes: bool
) -> list[RewrittenCaption]:
    """Write a negative for each sample, with the run's own filter, and match both captions."""
    image_states = task.model.vilta.encode_image(batch.pixel_values)
    expected = task.expected_words(batch, image_states)
    negatives = task.write_negatives(
        batch,
        expected.text_logits,
        expected.logits,
        task.soft_labels(batch),
        task.objective.negatives,
    )
    right = _match(task, batch.input_ids, batch.attention_mask, image_states)
    wrong = _match(task, negatives.input_ids, batch.attention_mask, image_states)
    sentences = task.tokenizer.batch_decode(negatives.input_ids, skip_special_tokens=True)
    offsets = _offsets(task, samples, batch.input_ids.shape[1])
    result = []
    for row, sample in enumerate(samples):
        if not negatives.valid[row]:
            continue
        places = negatives.changed[row].nonzero()[:, 0].tolist()
        spans = [offsets[row][place] for place in places]
        words = [_word(task, int(negatives.input_ids[row, place])) for place in places]
        result.append(
            RewrittenCaption(
                image=sample.index,
                caption=_pieces(sample.caption, spans),
                negative=_pieces(sample.caption, spans, words),
                match=right[row],
                negative_match=wrong[row],
                verdict=_verdict(sample.image_id, sentences[row]) if are_scenes else "",
            )
        )
    return result


def _match(
    task: PretrainingTask, input_ids: Tensor, mask: Tensor, image_states: Float[Tensor, "B P C"]
) -> list[float]:
    """Probability that caption i matches encoded image i."""
    text_states = task.model.vilta.encode_text(input_ids, mask)
    return task.model.match(text_states, mask, image_states).float().softmax(dim=1)[:, 1].tolist()


def _verdict(image_id: str, sentence: str) -> str:
    """Ask the scenes' oracle."""
    if parse(sentence) is None:
        return "no sentence"
    return "still true" if is_true(scene_from_id(image_id), sentence) else "false"


def _word(task: PretrainingTask, token: int) -> str:
    """Write out a token; a piece of a word keeps its mark, such as ``##``."""
    word = task.tokenizer.convert_ids_to_tokens(token)
    return word if word.startswith("##") else task.tokenizer.decode([token]).strip() or word


def _offsets(
    task: PretrainingTask, samples: Sequence[Sample], length: int
) -> list[list[tuple[int, int]]]:
    """Where in its caption each token stands, from character to character."""
    encoded = task.tokenizer(
        [sample.caption for sample in samples],
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
    )
    return encoded["offset_mapping"]


def _pieces(
    caption: str, spans: Sequence[tuple[int, int]], words: Sequence[str] | None = None
) -> tuple[Piece, ...]:
    """Cut a caption at ``spans``, which become marked pieces; ``words`` replace their text."""
    pieces, position = [], 0
    for index, (start, end) in enumerate(spans):
        # Some tokenizers count the blank before a word as part of it, or cut within a character.
        inside = caption[max(start, position) : end]
        start = max(end - len(inside.lstrip()), position)
        pieces.append(Piece(caption[position:start], False))
        pieces.append(Piece(words[index] if words else caption[start:end], True))
        position = max(end, position)
    pieces.append(Piece(caption[position:], False))
    return tuple(piece for piece in pieces if piece.text or piece.mark)
