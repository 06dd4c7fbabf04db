"""Match probabilities that mean what they say: temperature and bias, fitted on held-out pairs.

The log-odds ``x`` of the match head become ``sigmoid(x / temperature + bias)`` (Platt scaling;
arXiv 1706.04599 for the temperature and the error measure). The pairs that it is fitted on are
half true and half false, each false caption another image's: one drawn at random, one of those that
contrast finds most alike. So 0.8 says: of such pairs with this score, four in five belong together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

TEMPERATURES = (0.05, 100.0)
"""Beyond these, scores lie very close together, or matching learned everything, or nothing."""
BINS = 10
"""Bins of equal width for the calibration error and the diagram (15 in arXiv 1706.04599)."""
ALIKE = 10
"""A hard false caption is one of so many that contrast finds most alike; our choice."""


class Calibration(NamedTuple):
    """What turns log-odds into probabilities."""

    temperature: float
    bias: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often pairs belong together, by the probability that they were given."""

    confidence: tuple[float, ...]
    """Mean probability of each bin that holds a pair."""
    frequency: tuple[float, ...]
    """Share of its pairs that belong together, weighted as the error is."""
    weight: tuple[float, ...]
    """Share of all pairs in the bin."""

    @property
    def error(self) -> float:
        """Expected calibration error (ECE): the mean gap of probability and frequency, 0 to 1."""
        rows = zip(self.confidence, self.frequency, self.weight, strict=True)
        return sum(weight * abs(sure - often) for sure, often, weight in rows)

    def bins(self) -> dict[str, dict[str, float]]:
        """Return the bins by number, as a file holds them."""
        rows = zip(self.confidence, self.frequency, self.weight, strict=True)
        names = ("confidence", "frequency", "weight")
        return {str(i): dict(zip(names, row, strict=True)) for i, row in enumerate(rows)}


def calibrated(
    log_odds: Float[np.ndarray, "*S"], temperature: float, bias: float
) -> Float[np.ndarray, "*S"]:
    """Return ``sigmoid(log_odds / temperature + bias)``."""
    return 1 / (1 + np.exp(-np.clip(log_odds / temperature + bias, -60, 60)))


def fit(log_odds: Float[Tensor, "N"], match: Bool[Tensor, "N"]) -> Calibration:
    """Fit temperature and bias by the likelihood; true and false pairs weigh the same in all.

    Raises ``ValueError`` if either kind is missing.
    """
    weight = balanced(match).double()
    x, y = log_odds.double(), match.double()
    centre = (weight * x).mean()  # around it the search for both is well conditioned
    x = x - centre
    slope = torch.zeros((), dtype=torch.double, requires_grad=True)  # log of 1 / temperature
    bias = torch.zeros((), dtype=torch.double, requires_grad=True)

    def improve(*parameters: Tensor) -> None:
        optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.binary_cross_entropy_with_logits(slope.exp() * x + bias, y, weight)
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)

    improve(slope, bias)
    best = (-slope).exp().item()
    temperature = min(max(best, TEMPERATURES[0]), TEMPERATURES[1])
    if temperature != best:  # with another temperature goes another bias
        slope.data.fill_(-math.log(temperature))
        improve(bias)
    return Calibration(temperature, bias.item() - centre.item() / temperature)


def reliability(
    probability: Float[np.ndarray, "N"], match: Bool[np.ndarray, "N"], bins: int = BINS
) -> Reliability:
    """Sort pairs by probability into bins of equal width; kinds weigh the same, as in ``fit``."""
    weight = balanced(torch.from_numpy(match)).numpy()
    weight = weight / weight.sum()
    place = np.minimum((probability * bins).astype(int), bins - 1)
    rows = []
    for one in np.unique(place):
        inside = place == one
        share = weight[inside].sum()
        rows.append(
            (
                float((weight * probability)[inside].sum() / share),
                float((weight * match)[inside].sum() / share),
                float(share),
            )
        )
    confidence, frequency, shares = zip(*rows, strict=True)
    return Reliability(confidence=confidence, frequency=frequency, weight=shares)


def balanced(match: Bool[Tensor, "N"]) -> Float[Tensor, "N"]:
    """Return weights of mean 1 under which true and false pairs count for half each."""
    true = int(match.sum())
    if true in (0, len(match)):
        raise ValueError("calibration needs pairs that match and pairs that do not")
    return torch.where(match, len(match) / (2 * true), len(match) / (2 * (len(match) - true)))


def calibration_pairs(
    similarity: Float[Tensor, "N T"], relevant: Bool[Tensor, "N T"], seed: int = 0
) -> Bool[Tensor, "N T"]:
    """Choose the pairs to fit on: each image's own captions, and two false ones for each of them.

    Of the false ones one is drawn from all, one from the ``ALIKE`` most similar.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = relevant.cpu().clone()
    scores = similarity.cpu().masked_fill(wanted, -torch.inf)
    for image, own in enumerate(relevant.cpu().sum(dim=1).tolist()):
        others = int(scores[image].isfinite().sum())
        if others == 0:
            continue
        alike = scores[image].topk(min(ALIKE, others)).indices
        draws = torch.randint(len(alike), (own,), generator=generator)
        wanted[image, alike[draws]] = True
        every = (~relevant[image].cpu()).nonzero()[:, 0]
        wanted[image, every[torch.randint(len(every), (own,), generator=generator)]] = True
    return wanted.to(relevant.device)


def calibration_metrics(
    log_odds: Float[Tensor, "N"], match: Bool[Tensor, "N"], stored: Calibration
) -> dict[str, Any]:
    """Return the calibration error (percent) and the bins, raw and with what the model stores."""
    raw, kept = (
        reliability(calibrated(log_odds.cpu().numpy(), *each), match.cpu().numpy())
        for each in (Calibration(1.0, 0.0), stored)
    )
    return {
        "calibration": {"ece_raw": 100 * raw.error, "ece": 100 * kept.error},
        "reliability": {"raw": raw.bins(), "calibrated": kept.bins()},
    }
