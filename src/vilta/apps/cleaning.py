"""Match probabilities of all pairs of a data set, and the data without the bad pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import pyarrow as pa
import torch

from vilta.apps.matcher import Matcher
from vilta.apps.pair_rows import Progress, readable_rows
from vilta.data.sources.base import rows_with_captions
from vilta.model.fusion import Pairs

SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "image_id": pa.string(),
        "source": pa.string(),
        "caption": pa.string(),
        "probability": pa.float32(),
        "score": pa.float32(),
        "reason": pa.string(),
    }
)
"""One row per caption. If the image is broken, ``probability`` is null and ``reason`` says why.
``score`` ranks: log-odds of a match plus, if contrast was trained, the scaled cosine."""


def match_pairs(
    matcher: Matcher, table: datasets.Dataset, progress: Progress | None = None
) -> pa.Table:
    """Return ``SCHEMA`` for every caption of a pair table, the worst first.

    Raises ``ValueError`` if the model's matching was not trained.
    """
    broken: list[tuple[int, str]] = []
    lines = list(_lines(matcher, table, broken, progress))
    for number, reason in broken:
        row = table.select_columns(["image_id", "source", "captions"])[number]
        for caption in row["captions"]:
            lines.append(_line(number, row, caption, reason=reason))
    lines.sort(key=lambda line: float("-inf") if line["score"] is None else line["score"])
    return pa.Table.from_pylist(lines, SCHEMA)


def kept_pairs(table: datasets.Dataset, pairs: pa.Table, above: float) -> datasets.Dataset:
    """Keep the captions whose match probability is at least ``above``, and the images they leave.

    Raises ``ValueError`` if none is left.
    """
    keep: dict[int, set[str]] = {}
    columns = (pairs.column(name).to_pylist() for name in ("row", "caption", "probability"))
    for row, caption, probability in zip(*columns, strict=True):
        if probability is not None and probability >= above:
            keep.setdefault(row, set()).add(caption)
    if not keep:
        raise ValueError(f"no pair matches with a probability of {above}; lower --keep-above")
    numbers = sorted(keep)
    captions = table.select_columns(["captions"])[numbers]["captions"]
    left = [
        [caption for caption in group if caption in keep[number]]
        for number, group in zip(numbers, captions, strict=True)
    ]
    return rows_with_captions(table, numbers, left)


def _lines(
    matcher: Matcher,
    table: datasets.Dataset,
    broken: list[tuple[int, str]],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    scale = matcher.model.itc_head.scale().item()
    for batch in readable_rows(table, matcher.image_size, matcher.batch_size, broken, progress):
        captions = [caption for row in batch.rows for caption in row["captions"]]
        if not captions:
            continue
        owner = torch.tensor([i for i, row in enumerate(batch.rows) for _ in row["captions"]])
        images = matcher.encode_pixels(batch.pixels)
        texts = matcher.encode_texts(captions)
        pairs = Pairs(text=torch.arange(len(owner)), image=owner)
        odds = matcher.pair_log_odds(images, texts, Pairs(*(p.to(matcher.device) for p in pairs)))
        scores = odds.cpu()
        if matcher.contrast:
            with torch.no_grad():
                vectors = matcher.model.embed_image(images).cpu()[owner]
                scores = scores + scale * (vectors * matcher.model.embed_text(*texts).cpu()).sum(1)
        chances = matcher.probability(odds.cpu().numpy())
        for i, (caption, own) in enumerate(zip(captions, owner.tolist(), strict=True)):
            yield _line(
                batch.numbers[own],
                batch.rows[own],
                caption,
                probability=float(chances[i]),
                score=float(scores[i]),
            )


def _line(number: int, row: Mapping[str, Any], caption: str, **found: Any) -> dict[str, Any]:
    about = {"row": number, "image_id": row["image_id"], "source": row["source"]}
    nothing = {"probability": None, "score": None, "reason": ""}
    return {**about, "caption": caption, **nothing, **found}
