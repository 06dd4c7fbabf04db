"""Recall at k, the figure of image-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def first_hit_rank(scores: Float[Tensor, "Q C"], relevant: Bool[Tensor, "Q C"]) -> Int[Tensor, "Q"]:
    """Rank (from 0) of each query's best relevant candidate.

    With several relevant candidates the best-ranked counts (five captions of an image). A tie with
    a wrong candidate counts against the query, so that constant scores earn nothing; so does a
    score that is no number. A query without a relevant candidate ranks last.
    """
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    return (~(scores < best) & ~relevant).sum(dim=1)


def recall_at(
    scores: Float[Tensor, "Q C"], relevant: Bool[Tensor, "Q C"], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Share of queries, in percent, with a relevant candidate among the first k: ``R@k``."""
    ranks = first_hit_rank(scores, relevant)
    return {f"R@{k}": 100 * (ranks < k).float().mean().item() for k in ks}
