"""Metrics of benchmarks that compare a caption with a slightly altered one.

All metrics are percentages and not rounded. A score is any number that is higher where image and
text match better; a tie counts as wrong, and so does NaN. ValueError is raised if there are no
items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class CategoryAccuracy(NamedTuple):
    """Accuracies in percent: of each category, and the unweighted mean of those that count."""

    by_category: dict[str, float]
    macro: float


def pairwise_accuracy(true: Float[Tensor, "N"], false: Float[Tensor, "N"]) -> float:
    """Return the percentage of images that score their true caption higher than the false one.

    SugarCrepe's metric, computed per file (RAIVNLab/sugar-crepe, main_eval.py). SugarCrepe++ has
    two true captions, and the lower of their scores has to win (Sri-Harsha/scpp, the image-to-text
    task).
    """
    return _percent(true > false)


def winoground_scores(scores: Float[Tensor, "N 2 2"]) -> dict[str, float]:
    """Return the ``text``, ``image`` and ``group`` score of N image pairs with caption pairs.

    `scores` is indexed [n, image, caption]; image i belongs to caption i. Text: each image scores
    its own caption higher than the other. Image: each caption scores its own image higher than the
    other. Group: both. By chance 25, 25 and 16.7 percent (Thrush et al., CVPR 2022).
    """
    own = scores.diagonal(dim1=1, dim2=2)
    other_caption = scores.flip(2).diagonal(dim1=1, dim2=2)
    other_image = scores.flip(1).diagonal(dim1=1, dim2=2)
    text = (own > other_caption).all(dim=1)
    image = (own > other_image).all(dim=1)
    return {"text": _percent(text), "image": _percent(image), "group": _percent(text & image)}


def valse_metrics(caption: Float[Tensor, "N"], foil: Float[Tensor, "N"]) -> dict[str, float]:
    """VALSE's metrics from the probabilities in [0, 1] that a caption, and its foil, match.

    ``p_c``: captions called matching, above one half. ``p_f``: foils called not matching; one half
    is not matching. ``acc``: mean of the two; ``min(p_c,p_f)``: the lower one, which a model that
    always says yes cannot raise. ``acc_r``: captions above their foil, as `pairwise_accuracy`.

    Source: Heidelberg-NLP/VALSE, lxmert_valse_eval.py, which ranks by the logit of a match where
    this ranks by its probability. Valid items, which the caller chooses, are those whose caption
    alone was chosen by two or more of three annotators.
    """
    p_c, p_f = _percent(caption > 0.5), _percent(foil <= 0.5)
    return {
        "acc_r": pairwise_accuracy(caption, foil),
        "acc": (p_c + p_f) / 2,
        "p_c": p_c,
        "p_f": p_f,
        "min(p_c,p_f)": min(p_c, p_f),
    }


def accuracy_by_category(
    correct: Bool[Tensor, "N"],
    categories: Sequence[str],
    at_least: int = 1,
    outside: Collection[str] = (),
) -> CategoryAccuracy:
    """ARO's accuracies by category: of N items, which were right, and what each belongs to.

    Categories with fewer than `at_least` items are left out, of the mean too; ARO does so below 25
    for pairs of attributes. Categories `outside` are measured, but left out of the mean; ARO's are
    the symmetric relations. (mertyg/vision-language-models-are-bows, dataset_zoo/aro_datasets.py
    and its notebook.)

    Raises ValueError if `categories` has another length, or if none is left for the mean.
    """
    if len(correct) != len(categories):
        raise ValueError(f"{len(correct)} items, but categories of {len(categories)}")
    items = Counter(categories)
    right = Counter(name for name, hit in zip(categories, correct.tolist(), strict=True) if hit)
    accuracies = {
        name: 100 * right[name] / count for name, count in items.items() if count >= at_least
    }
    averaged = [value for name, value in accuracies.items() if name not in outside]
    if not averaged:
        raise ValueError(f"no category has {at_least} items or more and counts in the mean")
    return CategoryAccuracy(accuracies, sum(averaged) / len(averaged))


def _percent(correct: Bool[Tensor, "N"]) -> float:
    if len(correct) == 0:
        raise ValueError("no items to average over")
    return 100 * torch.count_nonzero(correct).item() / len(correct)
