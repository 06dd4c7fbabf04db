"""Hard negatives for other models: captions with one word changed, with their probabilities.

They are generated as in training (``PretrainingTask.generate_negatives``): the text encoder,
without the image, proposes words that fit the context, and the filter rejects those that the image
makes plausible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from vilta.apps.pair_rows import Progress, Rows, readable_rows
from vilta.apps.words import with_capital_of
from vilta.data.collate import PairCollator
from vilta.evaluation.match_probability import match_probabilities
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch, Sample

SCHEMA = pa.schema(
    {
        "image_id": pa.string(),
        "source": pa.string(),
        "caption": pa.string(),
        "negative": pa.string(),
        "word": pa.string(),
        "instead": pa.string(),
        "start": pa.int32(),
        "end": pa.int32(),
        "text_probability": pa.float32(),
        "image_probability": pa.float32(),
        "word_image_probability": pa.float32(),
        "match": pa.float32(),
        "negative_match": pa.float32(),
        "filter": pa.string(),
    }
)
"""``start`` and ``end`` count characters of ``word`` in the caption. Probabilities of ``instead``
given the other words: by the text alone, and with the image; of ``word`` with the image. ``match``
and ``negative_match``: that the caption and the negative belong to the image."""


def generate_negatives(
    task: PretrainingTask,
    collator: PairCollator,
    table: datasets.Dataset,
    *,
    filter_name: str,
    tries: int,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a line of ``SCHEMA`` for each negative.

    Each caption is masked and rewritten ``tries`` times; duplicates are dropped, and rows with a
    broken image are skipped. The same ``seed`` gives the same negatives.
    """
    size, broken = task.model.config.image_size, list[tuple[int, str]]()
    torch.manual_seed(seed)
    for rows in readable_rows(table, size, batch_size, broken, progress):
        with torch.no_grad():
            image_states = task.model.vilta.encode_image(rows.pixels.to(task.model.device))
        seen: set[tuple[str, str]] = set()
        for attempt in range(tries):
            samples, owner = _samples(rows, attempt)
            for start in range(0, len(samples), batch_size):
                part = slice(start, start + batch_size)
                chosen = image_states[torch.tensor(owner[part], device=image_states.device)]
                batch = collator(samples[part]).to(image_states.device)
                for own, line in _generated(task, batch, samples[part], chosen, filter_name):
                    row = rows.rows[owner[start + own]]
                    if (row["image_id"], line["negative"]) not in seen:
                        seen.add((row["image_id"], line["negative"]))
                        yield {"image_id": row["image_id"], "source": row["source"], **line}


def _samples(rows: Rows, attempt: int) -> tuple[list[Sample], list[int]]:
    """Return every caption as a sample, and which of the images it belongs to."""
    samples, owner = [], []
    for i, (number, row) in enumerate(zip(rows.numbers, rows.rows, strict=True)):
        for place, caption in enumerate(row["captions"]):
            samples.append(
                Sample(
                    pixels=rows.pixels[i],
                    caption=caption,
                    image_id=row["image_id"],
                    image_hash=number,  # unused: no in-batch negatives are drawn
                    index=number,
                    epoch=1000 * place + attempt,  # the mask follows from index and epoch
                    name=f"{row['source']}#{number}",
                )
            )
            owner.append(i)
    return samples, owner


@torch.no_grad()
def _generated(
    task: PretrainingTask,
    batch: Batch,
    samples: Sequence[Sample],
    image_states: Float[Tensor, "B P C"],
    filter_name: str,
) -> list[tuple[int, dict[str, Any]]]:
    """Return the negatives of a batch, each with its row number."""
    expected = task.expected_words(batch, image_states)
    soft = task.soft_labels(batch)
    found = task.generate_negatives(batch, expected, soft, filter_name)
    true = match_probabilities(task.model, batch.input_ids, batch.attention_mask, image_states)
    assert expected.logits is not None
    by_text, by_image = (
        logits.float().softmax(dim=1)
        for logits in (task.generator_logits(batch, expected), expected.logits)
    )
    length = batch.input_ids.shape[1]
    offsets = task.tokenizer(
        [sample.caption for sample in samples],
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
    )["offset_mapping"]
    lines = []
    for at, position in enumerate(batch.masked_positions.tolist()):
        row, place = divmod(position, length)
        if not bool(found.changed[row, place]):
            continue
        caption, (start, end) = samples[row].caption, offsets[row][place]
        start = end - len(caption[start:end].lstrip())  # some tokenizers include the space
        new, old = int(found.input_ids[row, place]), int(batch.input_ids[row, place])
        instead = with_capital_of(caption[start:end], task.tokenizer.decode([new]).strip())
        line = {
            "caption": caption,
            "negative": caption[:start] + instead + caption[end:],
            "word": caption[start:end],
            "instead": instead,
            "start": start,
            "end": end,
            "text_probability": by_text[at, new].item(),
            "image_probability": by_image[at, new].item(),
            "word_image_probability": by_image[at, old].item(),
            "match": true[row],
            "filter": filter_name,
        }
        lines.append((row, line))
    _score(task, lines, image_states)
    return lines


def _score(
    task: PretrainingTask,
    lines: Sequence[tuple[int, dict[str, Any]]],
    image_states: Float[Tensor, "B P C"],
) -> None:
    """Add ``negative_match``: of each negative as it is written, not of the tokens it is made of.

    Where several words of a caption were changed, each line has one of them.
    """
    if not lines:
        return
    texts = task.tokenizer(
        [line["negative"] for _, line in lines],
        padding=True,
        truncation=True,
        max_length=task.model.config.max_text_tokens,
        return_tensors="pt",
    ).to(image_states.device)
    rows = torch.tensor([row for row, _ in lines], device=image_states.device)
    ids, mask = texts["input_ids"], texts["attention_mask"]
    chances = match_probabilities(task.model, ids, mask, image_states[rows])
    for (_, line), chance in zip(lines, chances, strict=True):
        line["negative_match"] = chance
