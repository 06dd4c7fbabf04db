"""Recall at k, the metric of image-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_hit_rank(scores: Float[Tensor, "Q C"], relevant: Bool[Tensor, "Q C"]) -> Int[Tensor, "Q"]:
    """Return the rank (from 0) of each query's best relevant candidate.

    Of several relevant candidates (five captions of an image) the best-ranked counts. A tie with a
    wrong candidate counts against the query, so constant scores earn nothing; so does NaN. A query
    without a relevant candidate ranks last.
    """
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    return (~(scores < best) & ~relevant).sum(dim=1)


def recall_at(
    scores: Float[Tensor, "Q C"], relevant: Bool[Tensor, "Q C"], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Return ``R@k``: the percentage of queries with a relevant candidate in the first k."""
    ranks = first_hit_rank(scores, relevant)
    return {f"R@{k}": 100 * (ranks < k).float().mean().item() for k in ks}
