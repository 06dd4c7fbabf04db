"""The metrics of a pre-trained model on held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import torch

from vilta.evaluation.blindness import blindness_metrics
from vilta.evaluation.masked_words import masked_word_metrics
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    mean_recall,
    retrieval_metrics,
    trained_ranking,
    trained_stages,
)
from vilta.evaluation.scenes import negative_truth, scene_metrics
from vilta.evaluation.synonyms import PHOTOS, SCENES
from vilta.metrics.calibration import Calibration, calibration_metrics, calibration_pairs
from vilta.objectives.hard_negatives import SynthesisedNegatives
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@torch.no_grad()
def evaluate_pretraining(
    task: PretrainingTask,
    loader: Any,
    pairs: datasets.Dataset,
    *,
    top_k: int = 32,
    full: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    together: bool = False,
) -> dict[str, Any]:
    """Return retrieval, masked words, matching and, on scenes, the oracle's metrics.

    ``loader`` gives the rows of ``pairs`` in order, with masked captions. The
    result is a nested dict of percentages (losses aside). Random choices follow ``seed`` and leave
    torch's own random state as it was. With ``together`` all processes of a run call this and share
    the pairs that are matched, which is most of the work.
    """
    say = progress or (lambda what, done, total: None)
    tokenizer, model = task.tokenizer, task.model
    was_training = task.training
    task.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        metrics: dict[str, Any] = {}
        say("matching and losses", 0, 1)
        metrics["validation"] = _mean_parts(task, loader)
        say("masked words", 0, 1)
        metrics["masked_words"] = masked_word_metrics(model, loader)
        say("encoding", 0, 1)
        images = encode_images(model, (batch.pixel_values for batch in loader))
        gallery = encode_gallery(model, tokenizer, images, pairs["captions"])
        stages = trained_stages(trained_ranking(task.objective))
        match = None
        if "matching" in stages:
            every = full or "contrastive" not in stages
            wanted = candidate_pairs(
                gallery.similarity, gallery.similarity.numel() if every else top_k
            )
            sample = calibration_pairs(gallery.similarity, gallery.relevant, seed)
            scores = match_scores(
                model,
                gallery,
                wanted | sample,
                lambda done, total: say("matching pairs", done, total),
                together=together,
            )
            match = scores.masked_fill(~wanted, -torch.inf)
            if len(pairs) > 1:
                stored = Calibration(model.config.match_temperature, model.config.match_bias)
                metrics |= calibration_metrics(scores[sample], gallery.relevant[sample], stored)
        ranked = retrieval_metrics(gallery.similarity, match, gallery.relevant)
        metrics["retrieval"] = {stage: ranked[stage] for stage in stages}
        scenes = len(pairs) > 0 and pairs[0]["source"] == "scenes"
        own = task.objective.negatives
        if own != "off" and "matching" in stages:
            say("true captions and generated negatives", 0, 1)
            metrics["blindness"] = blindness_metrics(
                model, loader, _writer(task, own), tokenizer, SCENES if scenes else PHOTOS
            )
        if scenes:
            say("asking the oracle", 0, 1)
            metrics["scenes"] = scene_metrics(
                model, tokenizer, pairs, loader, seed, matching="matching" in stages
            )
            metrics["negatives"] = {
                name: negative_truth(pairs, loader, tokenizer, _writer(task, name))
                for name in ("none", "soft_label", "grounded")
                if name != "soft_label" or task.teacher is not None
            }
    task.train(was_training)
    metrics["retrieval"]["mean_recall"] = mean_recall(metrics["retrieval"])
    return metrics


def _mean_parts(task: PretrainingTask, loader: Any) -> dict[str, float]:
    """Average every logged part of the step over what it counts, however that is batched.

    Words for the losses on masked words, valid rows for matching, pairs for all else, of which
    contrast depends on the batch. A part that counts nothing in all the data is left out.
    """
    sums: dict[str, float] = {}
    totals: dict[str, float] = {}
    for batch in loader:
        losses = task(batch.to(task.model.device))
        words = len(batch.masked_positions)
        counts = {"mlm": words, "text_mlm": words, **losses.metric_counts}
        for name, value in losses.metrics.items():
            count = float(counts.get(name, len(batch)))
            if count and not value.isnan():
                sums[name] = sums.get(name, 0.0) + count * value.item()
                totals[name] = totals.get(name, 0.0) + count
    return {
        name: total / totals[name] * (100 if "accuracy" in name else 1)
        for name, total in sums.items()
    }


def _writer(task: PretrainingTask, name: str) -> Callable[[Batch], SynthesisedNegatives]:
    """Write negatives as the training step does, with the filter ``name``."""

    def write(batch: Batch) -> SynthesisedNegatives:
        batch = batch.to(task.model.device)
        expected = task.expected_words(batch, task.model.vilta.encode_image(batch.pixel_values))
        soft = task.soft_labels(batch)
        return task.generate_negatives(batch, expected, soft, name)

    return write
