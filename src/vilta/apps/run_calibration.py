"""Calibration of a trained model on held-out pairs; the result is stored in its config."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.apps.matcher import Matcher
from vilta.apps.proofreading import flag_threshold, model_vocabulary, proofread
from vilta.evaluation.retrieval import Gallery, encode_gallery, encode_images, match_scores
from vilta.metrics.calibration import TEMPERATURES, calibration_pairs, fit
from vilta.model import ViltaForPreTraining
from vilta.model.modeling import WithMatching
from vilta.screen import command, counted, notes
from vilta.training.folder import CONFIG

IMAGES = 1000
"""Maximum number of images to calibrate on; our choice."""
QUERIES, CANDIDATES = 200, 32
"""Queries that set the search threshold, and the candidate images of each."""
ANSWERED = 0.9
"""Share of these queries that must reach the threshold; our choice."""
PROOFREAD = 300
"""Maximum number of captions that set the proofreading threshold; our choice."""


@torch.no_grad()
def calibrate(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    pixels: Iterable[Tensor],
    captions: list[list[str]],
    name: str,
) -> str:
    """Set temperature, bias and both thresholds in ``model.config``; return a summary.

    ``pixels`` are batches of uint8 ``[B, 3, S, S]``, in the order of ``captions``, of which
    the first ``IMAGES`` are used. ``name`` is the name of the data. A model without trained
    matching is not changed. Raises ``ValueError`` if there are fewer than two images.
    """
    from vilta.data.sources.options import public_name  # here: match and search read no data

    if model.config.ranking == "contrastive":
        return "not calibrated: this run did not train matching"
    if len(captions) < 2:
        raise ValueError("calibration needs at least two images with captions")
    captions = captions[:IMAGES]
    images = encode_images(model, _first(pixels, len(captions)))
    gallery = encode_gallery(model, tokenizer, images, captions)
    pairs = calibration_pairs(gallery.similarity, gallery.relevant)
    odds = match_scores(model, gallery, pairs)[pairs]
    found = fit(odds.cpu(), gallery.relevant[pairs].cpu())
    config = model.config
    config.match_temperature, config.match_bias = found
    config.calibrated_on = f"{counted(len(captions), 'image')} of {public_name(name)}"
    config.search_threshold = _search_threshold(model, gallery)
    told = f"temperature {found.temperature:.2f}, bias {found.bias:+.2f}"
    told += f", search threshold {config.search_threshold:.0%}"
    if isinstance(model, ViltaForPreTraining):
        threshold = _threshold(model, tokenizer, gallery.image_states, captions)
        config.suspicion_threshold = threshold
        if threshold is not None:
            told += f", proofreading threshold {threshold:.2f}"
    lowest, highest = TEMPERATURES
    if found.temperature == highest:
        told += "; matching does not tell these pairs apart yet"
    elif found.temperature == lowest:
        told += "; the lowest temperature: scores lie close together, or tell every pair apart"
    return f"calibrated on {config.calibrated_on}: {told}"


def calibrate_release(
    model: WithMatching, tokenizer: PreTrainedTokenizerBase, loader: Any, folder: Path, name: str
) -> str:
    """Calibrate on the pairs of an evaluation loader, and write the config of the released model.

    Returns the summary of ``calibrate``.
    """
    captions = loader.dataset.table["captions"][:]
    pixels = (batch.pixel_values for batch in loader)
    with notes.status("calibrating the match probabilities"):
        told = calibrate(model, tokenizer, pixels, captions, name)
    model.config.save_pretrained(folder)
    return told


def say_uncalibrated(matcher: Matcher) -> None:
    """Tell the user if the match probabilities of this model are not calibrated."""
    if matcher.matching and not matcher.calibrated:
        notes.print(f"these probabilities are not calibrated ({calibrating(matcher)})")


def calibrating(matcher: Matcher) -> str:
    """Return the call that calibrates a model."""
    is_run = (Path(matcher.name) / CONFIG).is_file()  # a released folder does not name its task
    task = [] if is_run else ["--task", "retrieval"]
    return command("evaluate", matcher.name, *task, "--data", "DATA", "--calibrate")


def _search_threshold(model: WithMatching, gallery: Gallery) -> float:
    """Return the probability from which on a photo counts as found.

    For ``ANSWERED`` of the held-out captions, the best held-out image reaches it.
    """
    count = gallery.similarity.shape[1]
    queries = torch.linspace(0, count - 1, min(QUERIES, count)).long().to(gallery.similarity.device)
    wanted = torch.zeros_like(gallery.relevant)
    candidates = min(CANDIDATES, len(gallery.image_states))
    near = gallery.similarity[:, queries].topk(candidates, dim=0).indices
    wanted[near, queries] = True
    odds = match_scores(model, gallery, wanted)[:, queries]
    config = model.config
    chances = torch.sigmoid(odds / config.match_temperature + config.match_bias)
    return float(chances.amax(dim=0).quantile(1 - ANSWERED))


def _threshold(
    model: ViltaForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    images: Float[Tensor, "N P C"],
    captions: list[list[str]],
) -> float | None:
    """Return the suspicion above which a word is flagged; None if there is no suspect at all."""
    vocabulary = model_vocabulary(model, tokenizer)
    highest = []
    for image, (caption, *_) in islice(zip(images, captions, strict=False), PROOFREAD):
        try:
            found = proofread(model, tokenizer, image[None], caption, vocabulary)
        except ValueError:  # a caption of punctuation alone has no words
            continue
        highest.append(found.highest_suspicion)
    known = [value for value in highest if math.isfinite(value)]
    if not known:
        return None
    return max(flag_threshold(highest), min(known))  # most captions may have no suspect


def _first(batches: Iterable[Tensor], count: int) -> Iterable[Tensor]:
    """Yield the first ``count`` images."""
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return
