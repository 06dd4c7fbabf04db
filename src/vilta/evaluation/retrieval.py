"""Zero-shot image-text retrieval: a contrastive first stage, then matching over the top k.

Every image and every text is encoded once; matching reads the cached states. Peers encode each
image again for every few dozen texts, which is why their evaluation takes hours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.config import ObjectiveConfig
from vilta.metrics.names import flat
from vilta.metrics.recall import recall_at
from vilta.model.configuration import RANKINGS
from vilta.model.fusion import Pairs
from vilta.model.modeling import WithMatching
from vilta.training.processes import process_count
from vilta.training.skipping import Diverged

PAIRS_PER_CALL = 1024
STAGES = (*RANKINGS, "normalised")
"""The ways to rank, as ``retrieval_metrics`` names them; the last one reads the whole gallery."""


def trained_ranking(objective: ObjectiveConfig) -> str:
    """Return the way to rank by all that a run has trained, one of ``RANKINGS``.

    Without contrast there are no candidates either: matching ranks all pairs, as METER does.
    """
    if objective.itm_weight == 0:
        return "contrastive"
    return "combined" if objective.itc_weight > 0 else "matching"


def trained_stages(ranking: str) -> tuple[str, ...]:
    """Return all ways to rank of a model whose ``config.ranking`` this is."""
    return STAGES if ranking == "combined" else (ranking,)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """``N`` images and their ``T`` texts, encoded."""

    image_states: Float[Tensor, "N P C"]
    text_states: Float[Tensor, "T L C2"]
    attention_mask: Int[Tensor, "T L"]
    similarity: Float[Tensor, "N T"]
    """Scaled cosine of the contrastive embeddings, float32."""
    relevant: Bool[Tensor, "N T"]
    """Whether text t was written for image i."""


@torch.no_grad()
def encode_images(model: WithMatching, pixels: Iterable[Tensor]) -> Float[Tensor, "N P C"]:
    """Encode batches of images, uint8 ``[B, 3, H, W]``, in their order."""
    return torch.cat([model.vilta.encode_image(batch.to(model.device)) for batch in pixels])


@torch.no_grad()
def encode_gallery(
    model: WithMatching,
    tokenizer: PreTrainedTokenizerBase,
    image_states: Float[Tensor, "N P C"],
    captions: Sequence[Sequence[str]],
    *,
    batch_size: int = 256,
) -> Gallery:
    """Encode the captions of ``N`` images, and join them with the states of the images.

    Raises ``Diverged`` if what the encoders give is not finite.
    """
    device = model.device
    texts = [caption for group in captions for caption in group]
    owner = torch.tensor([i for i, group in enumerate(captions) for _ in group])
    tokens = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=model.config.max_text_tokens,
        return_tensors="pt",
    ).to(device)
    ids, mask = tokens["input_ids"].split(batch_size), tokens["attention_mask"].split(batch_size)
    text_states = torch.cat([model.vilta.encode_text(i, m) for i, m in zip(ids, mask, strict=True)])
    similarity = model.similarity(image_states, text_states, tokens["attention_mask"])
    _require_finite(similarity)
    return Gallery(
        image_states=image_states,
        text_states=text_states,
        attention_mask=tokens["attention_mask"],
        similarity=similarity,
        relevant=(torch.arange(len(captions))[:, None] == owner[None]).to(device),
    )


def candidate_pairs(similarity: Float[Tensor, "N T"], top_k: int) -> Bool[Tensor, "N T"]:
    """Pairs in which the text is among the image's ``top_k`` or the image among the text's.

    Raises ``ValueError`` if that is none.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    wanted = torch.zeros_like(similarity, dtype=torch.bool)
    texts = similarity.topk(min(top_k, similarity.shape[1]), dim=1).indices
    images = similarity.topk(min(top_k, similarity.shape[0]), dim=0).indices
    return wanted.scatter(1, texts, True).scatter(0, images, True)


@torch.no_grad()
def match_scores(
    model: WithMatching,
    gallery: Gallery,
    wanted: Bool[Tensor, "N T"],
    progress: Callable[[int, int], None] | None = None,
    *,
    together: bool = False,
) -> Float[Tensor, "N T"]:
    """Log-odds of a match for the wanted pairs, from cached states; -inf for the others.

    With ``together`` every process of a run calls this with the same arguments, computes its share,
    and gets all scores. Raises ``Diverged`` if a score is not finite.
    """
    rank, count = (torch.distributed.get_rank(), process_count()) if together else (0, 1)
    if together:  # rounding may make another candidate on another device
        chosen = wanted.byte()
        torch.distributed.broadcast(chosen, 0)
        wanted = chosen.bool()
    scores = torch.full(wanted.shape, -torch.inf, device=wanted.device)
    image_index, text_index = wanted.nonzero(as_tuple=True)
    lengths = gallery.attention_mask.sum(dim=1)
    order = lengths[text_index].argsort()  # rows of like length share a call: less padding
    for start in range(rank * PAIRS_PER_CALL, len(order), count * PAIRS_PER_CALL):
        rows = order[start : start + PAIRS_PER_CALL]
        pairs = Pairs(text_index[rows], image_index[rows])
        texts, text_rows = pairs.text.unique(return_inverse=True)
        images, image_rows = pairs.image.unique(return_inverse=True)
        longest = int(lengths[texts].max())
        logits = model.match(
            gallery.text_states[texts, :longest],
            gallery.attention_mask[texts, :longest],
            gallery.image_states[images],
            Pairs(text_rows, image_rows),
        ).float()
        scores[pairs.image, pairs.text] = logits[:, 1] - logits[:, 0]
        if progress is not None:
            progress(start + len(rows), len(order))
    if together:
        torch.distributed.all_reduce(scores, torch.distributed.ReduceOp.MAX)
    _require_finite(scores[wanted])
    return scores


def _require_finite(scores: Tensor) -> None:
    """Raise ``Diverged`` where there is nothing to rank by; the weights may be finite still."""
    if not scores.isfinite().all():
        raise Diverged(
            "the model has diverged: its scores of images and captions are not finite; lower "
            "--optimization.lr and start again"
        )


def stage_scores(
    similarity: Float[Tensor, "N T"], match: Float[Tensor, "N T"] | None
) -> dict[str, Float[Tensor, "N T"]]:
    """Return the scores that each stage ranks by.

    ``contrastive`` ranks by similarity and ``matching`` by the log-odds of a match. ``combined``
    ranks by their sum: matching learns on negatives drawn by similarity, so its log-odds estimate
    what similarity misses (the optimal discriminator is the ratio of the two densities; BLIP adds
    the two as well). ``normalised`` reads each text's sums as log-probabilities over its scored
    images (the inverted softmax of arXiv 1702.03859): a text that suits many images is then no
    better an answer to any of them. It changes the order of the texts of an image, not of the
    images of a text, and says nothing of a text that has one candidate image. In all three,
    scored pairs rank before all others, which keep their contrastive order.
    """
    stages = {"contrastive": similarity}
    if match is not None:
        both = match + similarity
        ranked = dict(zip(STAGES[1:], (match, both, both.log_softmax(dim=0)), strict=True))
        for stage, scores in ranked.items():
            # Moved below every score of a scored pair, the others keep their order.
            below = scores[scores.isfinite()].min() - 1 - similarity.max()
            stages[stage] = torch.where(scores.isfinite(), scores, similarity + below)
    return stages


def retrieval_metrics(
    similarity: Float[Tensor, "N T"],
    match: Float[Tensor, "N T"] | None,
    relevant: Bool[Tensor, "N T"],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return R@1/5/10 in percent, in both directions, for each stage of ``stage_scores``."""
    return {
        stage: {
            "image_to_text": recall_at(scores, relevant),
            "text_to_image": recall_at(scores.T, relevant.T),
        }
        for stage, scores in stage_scores(similarity, match).items()
    }


def mean_recall(stages: dict[str, dict[str, dict[str, float]]]) -> float:
    """Average R@1/5/10 both ways of the best ranking: not every run trains all of them.

    Chooses checkpoints on validation data; what is reported is a stage's own. ``normalised`` does
    not count: it knows more than one query.
    """
    return max(average_recall(stages[name]) for name in RANKINGS if name in stages)


def average_recall(stage: dict[str, dict[str, float]]) -> float:
    """Average R@1/5/10 both ways."""
    values = [value for way in stage.values() for value in way.values()]
    return sum(values) / len(values)


def flat_retrieval_metrics(
    gallery: Gallery, match: Float[Tensor, "N T"] | None, ranking: str
) -> dict[str, float]:
    """Return ``retrieval_metrics`` of a gallery by flat names, and the mean recalls.

    Those of the stages that a model with this ``config.ranking`` has trained.
    """
    ranked = retrieval_metrics(gallery.similarity, match, gallery.relevant)
    stages = {stage: ranked[stage] for stage in trained_stages(ranking)}
    means = {f"{name}/mean_recall": average_recall(stage) for name, stage in stages.items()}
    return {**flat(stages), **means, "mean_recall": mean_recall(stages)}
