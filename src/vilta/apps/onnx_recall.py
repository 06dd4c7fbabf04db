"""The cost of export and quantisation: R@1 of torch and of the ONNX files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.apps.onnx_ranker import Ranker
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    retrieval_metrics,
)
from vilta.model.modeling import WithMatching

BATCH = 64
"""Images in one call of the model."""


@torch.no_grad()
def recall_by_torch(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    pixels: UInt8[np.ndarray, "N 3 S S"],
    captions: Sequence[Sequence[str]],
    top_k: int,
) -> dict[str, float]:
    """R@1 in percent both ways, as the evaluation of a run computes it."""
    batches = torch.from_numpy(pixels).to(model.device).split(BATCH)
    gallery = encode_gallery(model, tokenizer, encode_images(model, batches), captions)
    ranking, match = model.config.ranking, None
    if ranking != "contrastive":
        match = match_scores(model, gallery, _candidates(gallery.similarity, ranking, top_k))
    return _recall(gallery.similarity, match, gallery.relevant, ranking)


def recall_by_onnx(
    ranker: Ranker,
    pixels: UInt8[np.ndarray, "N 3 S S"],
    captions: Sequence[Sequence[str]],
    top_k: int,
) -> dict[str, float]:
    """Return the same by exported models."""
    states, embeds = ranker.encode_images(pixels)
    texts = ranker.encode_texts([caption for group in captions for caption in group])
    owner = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
    relevant = torch.from_numpy(np.arange(len(captions))[:, None] == owner[None])
    similarity = torch.from_numpy(ranker.similarity(embeds, texts))
    ranking, match = ranker.settings["ranking"], None
    if ranking != "contrastive":
        wanted = _candidates(similarity, ranking, top_k)
        images, rows = (index.numpy() for index in wanted.nonzero(as_tuple=True))
        match = torch.full(wanted.shape, -torch.inf)
        match[wanted] = torch.from_numpy(ranker.match(texts, states, rows, images))
    return _recall(similarity, match, relevant, ranking)


def _candidates(similarity: Float[Tensor, "N T"], ranking: str, top_k: int) -> Bool[Tensor, "N T"]:
    every = similarity.numel()
    return candidate_pairs(similarity, every if ranking == "matching" else top_k)


def _recall(
    similarity: Float[Tensor, "N T"],
    match: Float[Tensor, "N T"] | None,
    relevant: Bool[Tensor, "N T"],
    ranking: str,
) -> dict[str, float]:
    ways = retrieval_metrics(similarity, match, relevant)[ranking]
    return {way: float(values["R@1"]) for way, values in ways.items()}
