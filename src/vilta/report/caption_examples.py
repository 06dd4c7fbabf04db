"""Examples on captions: masked words filled, and hard negatives generated, for the first rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vilta.data.collate import PairCollator
from vilta.data.samples import PairDataset
from vilta.evaluation.masked_words import VIEWS, masked_word_logits
from vilta.evaluation.match_probability import match_probabilities
from vilta.scenes import is_true, one_word_edits, parse, scene_from_id
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch, Sample

GUESSES = 3
"""Words shown for a masked position; our choice."""


class Piece(NamedTuple):
    """A stretch of a caption; ``mark``: it was masked or changed."""

    text: str
    mark: bool


class Guess(NamedTuple):
    """A word for a masked position, with the model's probability of it (0 to 1).

    ``right`` marks the masked word and, on scenes, any word with which the caption stays true.
    """

    word: str
    probability: float
    right: bool


@dataclass(frozen=True, kw_only=True)
class MaskedCaption:
    """A caption, its masked tokens as marked pieces, and the guesses for each of these by view."""

    image: int
    wrong_image: int
    caption: tuple[Piece, ...]
    guesses: tuple[dict[str, tuple[Guess, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class RewrittenCaption:
    """A caption and a changed copy, each with its match probability (0 to 1).

    ``verdict`` is the oracle's on scenes: ``false``, ``in fact true`` or ``ungrammatical``.
    """

    image: int
    caption: tuple[Piece, ...]
    negative: tuple[Piece, ...]
    match: float
    negative_match: float
    verdict: str


@dataclass(frozen=True, kw_only=True)
class CaptionExamples:
    """Examples of captions; ``pixels`` holds every image that they name, as the model sees it."""

    pixels: dict[int, UInt8[np.ndarray, "S S 3"]]
    masked: list[MaskedCaption]
    rewritten: list[RewrittenCaption]
    """Captions with the negative that the model generates."""
    edited: list[RewrittenCaption]
    """Captions with a word changed so that they are false; on scenes only."""
    filter_name: str


@torch.no_grad()
def caption_examples(
    task: PretrainingTask, dataset: PairDataset, collator: PairCollator, count: int
) -> CaptionExamples:
    """Fill masked words, generate negatives and, on scenes, edit captions of the first rows."""
    samples = [dataset[0, row] for row in range(min(count, len(dataset)))]
    batch = collator(samples).to(task.model.device)
    are_scenes = dataset.table[0]["source"] == "scenes"
    image_states = task.model.vilta.encode_image(batch.pixel_values)
    rewritten = []
    if task.objective.negatives != "off":
        rewritten = _rewritten(task, samples, batch, image_states, are_scenes)
    return CaptionExamples(
        pixels=pixels_of(dataset, {*range(len(samples)), *(sample.index for sample in samples)}),
        masked=_masked(task, samples, batch, are_scenes),
        rewritten=rewritten,
        edited=_edited(task, samples, image_states) if are_scenes else [],
        filter_name=task.objective.negatives,
    )


def pixels_of(dataset: PairDataset, rows: set[int]) -> dict[int, UInt8[np.ndarray, "S S 3"]]:
    """Return the images of some rows, as the model sees them."""
    return {row: dataset[0, row].pixels.permute(1, 2, 0).numpy() for row in sorted(rows)}


def _masked(
    task: PretrainingTask, samples: Sequence[Sample], batch: Batch, are_scenes: bool
) -> list[MaskedCaption]:
    """Fill the masked words of each sample, with three views of the image."""
    length = batch.input_ids.shape[1]
    guesses: list[list[dict[str, tuple[Guess, ...]]]] = [[] for _ in samples]
    places: list[list[int]] = [[] for _ in samples]
    logits = masked_word_logits(task.model, batch)
    tops = {view: logits[view].float().softmax(dim=1).topk(GUESSES) for view in VIEWS}
    original = batch.input_ids.flatten().tolist()
    offsets = _offsets(task, samples, length)
    for at, position in enumerate(batch.masked_positions.tolist()):
        row, place = divmod(position, length)
        places[row].append(place)
        guesses[row].append(
            {
                view: tuple(
                    Guess(
                        word := _word(task, token),
                        probability,
                        token == original[position]
                        or (are_scenes and _stays_true(samples[row], offsets[row][place], word)),
                    )
                    for token, probability in zip(
                        top.indices[at].tolist(), top.values[at].tolist(), strict=True
                    )
                )
                for view, top in tops.items()
            }
        )
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


def _stays_true(sample: Sample, span: tuple[int, int], word: str) -> bool:
    """Whether the caption of a scene is true with another word at ``span``."""
    caption = sample.caption[: span[0]] + word + sample.caption[span[1] :]
    return parse(caption) is not None and is_true(scene_from_id(sample.image_id), caption)


def _rewritten(
    task: PretrainingTask,
    samples: Sequence[Sample],
    batch: Batch,
    image_states: Float[Tensor, "B P C"],
    are_scenes: bool,
) -> list[RewrittenCaption]:
    """Generate a negative for each sample, with the run's own filter, and match both captions."""
    expected = task.expected_words(batch, image_states)
    soft = task.soft_labels(batch)
    negatives = task.generate_negatives(batch, expected, soft, task.objective.negatives)
    right = match_probabilities(task.model, batch.input_ids, batch.attention_mask, image_states)
    wrong = match_probabilities(task.model, negatives.input_ids, batch.attention_mask, image_states)
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


def _edited(
    task: PretrainingTask, samples: Sequence[Sample], image_states: Float[Tensor, "B P C"]
) -> list[RewrittenCaption]:
    """Make each scene's caption false by one word, as the evaluation does, and match both."""
    found = []
    for row, sample in enumerate(samples):
        scene, rng = scene_from_id(sample.image_id), Random(sample.image_id)
        for edit in one_word_edits(scene, sample.caption, rng):
            texts = task.tokenizer(
                [sample.caption, edit],
                padding=True,
                truncation=True,
                max_length=task.model.config.max_text_tokens,
                return_tensors="pt",
            ).to(task.model.device)
            own = image_states[row].expand(2, -1, -1)
            right, wrong = match_probabilities(
                task.model, texts["input_ids"], texts["attention_mask"], own
            )
            span, word = _changed_word(sample.caption, edit)
            found.append(
                RewrittenCaption(
                    image=sample.index,
                    caption=_pieces(sample.caption, [span]),
                    negative=_pieces(sample.caption, [span], [word]),
                    match=right,
                    negative_match=wrong,
                    verdict="false",
                )
            )
    return found


def _changed_word(caption: str, edit: str) -> tuple[tuple[int, int], str]:
    """Return where a caption differs from its edit by one word, and the new word."""
    was, now = caption.split(" "), edit.split(" ")
    place = next(i for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b)
    start = sum(len(word) + 1 for word in was[:place])
    return (start, start + len(was[place])), now[place]


def _verdict(image_id: str, sentence: str) -> str:
    """Return the oracle's verdict on a sentence."""
    if parse(sentence) is None:
        return "ungrammatical"
    return "in fact true" if is_true(scene_from_id(image_id), sentence) else "false"


def _word(task: PretrainingTask, token: int) -> str:
    """Decode a token; a word piece keeps its prefix ``##``."""
    word = task.tokenizer.convert_ids_to_tokens(token)
    return word if word.startswith("##") else task.tokenizer.decode([token]).strip() or word


def _offsets(
    task: PretrainingTask, samples: Sequence[Sample], length: int
) -> list[list[tuple[int, int]]]:
    """Return the character span of each token in its caption."""
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
    """Split a caption at ``spans``, which become marked pieces; ``words`` replace their text."""
    pieces, position = [], 0
    for index, (start, end) in enumerate(spans):
        # Some tokenizers include the space before a word, or split within a character.
        inside = caption[max(start, position) : end]
        start = max(end - len(inside.lstrip()), position)
        pieces.append(Piece(caption[position:start], False))
        pieces.append(Piece(words[index] if words else caption[start:end], True))
        position = max(end, position)
    pieces.append(Piece(caption[position:], False))
    return tuple(piece for piece in pieces if piece.text or piece.mark)
