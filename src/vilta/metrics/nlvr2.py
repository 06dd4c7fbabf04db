"""Accuracy and consistency of NLVR2, which asks whether a sentence is true of two photos.

Source: lil-lab/nlvr, nlvr2/eval/metrics.py at commit e6a286a.
"""

from __future__ import annotations

from collections.abc import Sequence


def nlvr2_metrics(
    identifiers: Sequence[str], predictions: Sequence[bool], labels: Sequence[bool]
) -> dict[str, float]:
    """Return ``accuracy`` and ``consistency`` in percent, not rounded.

    Consistency is the share of sentences that are judged correctly for all of their image pairs.
    The identifier "split-set-pair-sentence", as in "dev-850-0-1", gives an example's sentence: the
    same number in the same set of images. The three sequences run over the same examples.

    Raises ValueError if there are no examples, if an identifier has another form, or if the
    sequences differ in length.
    """
    if not identifiers:
        raise ValueError("no examples to average over")
    correct_pairs: dict[tuple[str, str, str], list[bool]] = {}
    for identifier, predicted, label in zip(identifiers, predictions, labels, strict=True):
        correct_pairs.setdefault(sentence_of(identifier), []).append(predicted == label)
    consistent = [all(pairs) for pairs in correct_pairs.values()]
    return {
        "accuracy": 100 * sum(map(sum, correct_pairs.values())) / len(identifiers),
        "consistency": 100 * sum(consistent) / len(consistent),
    }


def sentence_of(identifier: str) -> tuple[str, str, str]:
    """Return split, set and sentence, without the number of the image pair.

    Raises ValueError if the identifier has another form.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise ValueError(f"{identifier!r} is not of the form split-set-pair-sentence")
    split, images, _, sentence = parts
    return split, images, sentence
