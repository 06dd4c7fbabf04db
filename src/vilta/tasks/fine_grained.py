"""Fine-grained matching: a true caption against minimally wrong ones, and against rewordings.

Both sides are always measured: a model trained on wrong captions alone learns to reject what is
true but new (arXiv 2409.17958).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vilta.config.finetune import TaskSettings
from vilta.config.ranges import NotNegative
from vilta.data.images import Images
from vilta.data.sources import ScenesName
from vilta.metrics.compositional import (
    accuracy_by_category,
    pairwise_accuracy,
    valse_metrics,
    winoground_scores,
)
from vilta.model import ViltaForImageTextRetrieval
from vilta.model.fusion import Pairs
from vilta.scenes import (
    Draws,
    captions,
    make_scene,
    one_word_edits,
    paraphrases,
    word_class,
)
from vilta.tasks.finetuning import FinetuningTask, ItemRow
from vilta.tasks.formats.aro import SYMMETRIC_RELATIONS
from vilta.tasks.formats.compositional_sets import CroppedImages, read_set, row_of
from vilta.types import ExampleBatch, Losses

PER_SCENE = 3
"""Captions of a scene that become an item each (our choice)."""
SMALLEST_CATEGORY = {"aro-attribution": 25}
"""Items that a category needs to count in a set's macro mean (ARO's own rule; else 1)."""
OUTSIDE_MEAN = {"aro-relation": SYMMETRIC_RELATIONS}
"""Categories that a set's authors measure but leave out of the macro mean."""


@dataclass(frozen=True, kw_only=True)
class FineGrainedSettings(TaskSettings):
    """Settings of fine-grained matching."""

    paraphrases: NotNegative = 1.0
    """Weight of paraphrases among the true captions (0: trained on edits alone)."""
    edit_kinds: tuple[Literal["colour", "shape", "size", "texture", "relation", "count"], ...] = ()
    """In training, a caption of the built-in scenes gets a wrong text for each of these kinds of
    words that it has, beside the one that changes any word."""

    def held_out(self) -> FineGrainedSettings:
        """Return the settings for held-out items, to which nothing is added."""
        return replace(self, edit_kinds=())


class Scored(NamedTuple):
    """The texts of an item: which are true of its first image, and how well they match."""

    truth: list[int]
    match: list[list[float]]
    """Log-odds of a match, a list for each of the item's images."""
    similarity: list[float]
    """Contrastive similarity to the first image."""


class FineGrainedMatching(FinetuningTask):
    """Rows: ``truth`` (1 or 0 for each text, of the first image), ``category`` and ``set``.

    The first text is the caption, further true ones are paraphrases.
    """

    name = "fine-grained"
    model: ViltaForImageTextRetrieval
    model_class = ViltaForImageTextRetrieval
    settings_class = FineGrainedSettings
    settings: FineGrainedSettings
    selection_metric = "both_sides"
    needs_head = False
    trained_heads = frozenset({"matching"})
    most = 0

    @classmethod
    def rows(cls, path: str, settings: TaskSettings) -> list[ItemRow]:
        """Read SugarCrepe, SugarCrepe++, ARO, Winoground, VALSE, or a user's CSV."""
        return read_set(path)

    @classmethod
    def place(cls, images: Images) -> Images:
        """ARO asks about parts of images."""
        return CroppedImages(images)

    @classmethod
    def scenes(cls, named: ScenesName, settings: FineGrainedSettings) -> list[ItemRow]:
        """Take captions of scenes, a one-word edit (or more) that is false, and a paraphrase."""
        rows: list[ItemRow] = []
        for index in range(named.first, named.first + named.count):
            scene, rng = make_scene(named.seed, index), Draws(named.seed, index, stream=23)
            for caption in captions(scene, PER_SCENE, rng):
                edits = one_word_edits(scene, caption, rng)
                if not edits:
                    continue
                for kind in settings.edit_kinds:
                    edits += one_word_edits(scene, caption, rng, kind=kind)
                edits = list(dict.fromkeys(edits))
                others = paraphrases(caption, rng)
                texts = [caption, *edits, *others]
                truth = [1, *(0 for _ in edits), *(1 for _ in others)]
                name, category = f"{scene.image_id}-{len(rows)}", _changed_kind(caption, edits[0])
                rows.append(row_of(name, [scene.image_id], texts, truth, "scenes", category))
        return rows

    def check(self, items: Any) -> None:
        """Note the most texts of an item of any set: targets are padded to as many.

        Raises ``ValueError`` if some items ask about one image and others about two.
        """
        self.most = max(self.most, *map(len, items.rows["texts"]))
        counts = zip(items.rows["set"], map(len, items.rows["images"]), strict=True)
        sets = {images: name for name, images in counts}
        if len(sets) > 1:
            (_, one), (_, two) = sorted(sets.items())[:2]
            raise ValueError(f"{two} has more images an item than {one}: evaluate them apart")

    @classmethod
    def selection_metric_for(cls, items: Any) -> str:
        """Return ``both_sides``, or ``accuracy`` where nothing measures the other side."""
        return cls.selection_metric if _has_paraphrases(items.rows["truth"]) else "accuracy"

    def target(self, row: ItemRow) -> Tensor:
        """Return which texts are true, ``[most]``, padded with -1."""
        truth = torch.full((self.most,), -1)
        truth[: len(row["truth"])] = torch.tensor(row["truth"])
        return truth

    def forward(self, batch: ExampleBatch) -> Losses:
        """Cross-entropy of match and no match, and of the caption among its wrong texts.

        Captions, paraphrases and edits are averaged apart.
        """
        known = batch.targets >= 0
        truth = batch.targets[known]  # [T]
        first = torch.zeros_like(batch.targets, dtype=torch.bool)
        first[:, 0] = True
        is_first, weight = first[known], self.settings.paraphrases
        match = self.match(batch, 0)[0].float()
        losses = F.binary_cross_entropy_with_logits(match, truth.float(), reduction="none")
        groups = {
            "captions": is_first,
            "paraphrases": (truth == 1) & ~is_first,
            "edits": truth == 0,
        }
        parts = {n: losses[g].sum() / g.sum().clamp(min=1) for n, g in groups.items()}
        total = (parts["captions"] + weight * parts["paraphrases"]) / (1 + weight) + parts["edits"]
        ranked = match.new_full(known.shape, -torch.inf).masked_scatter(known, match)
        ranked = ranked.masked_fill((batch.targets == 1) & ~first, -torch.inf)  # no rivals of it
        parts["ranking"] = F.cross_entropy(ranked, torch.zeros_like(batch.targets[:, 0]))
        total = total + parts["ranking"]
        right = ((match > 0) == (truth == 1)).float().mean()
        return Losses(
            total=total, metrics={n: v.detach() for n, v in parts.items()} | {"accuracy": right}
        )

    def match(
        self, batch: ExampleBatch, image: int
    ) -> tuple[Float[Tensor, "T"], Float[Tensor, "T"]]:
        """Log-odds of a match, and similarity, of each text with that image of its item."""
        vilta, mask = self.model.vilta, batch.attention_mask
        image_states = vilta.encode_image(batch.pixel_values)
        text_states = vilta.encode_text(batch.input_ids, mask)
        own = torch.arange(len(text_states), device=text_states.device)
        images = batch.image_index[batch.text_to_item, image]
        logits = self.model.match(text_states, mask, image_states, Pairs(own, images))
        similarity = self.model.similarity(image_states, text_states, mask)[images, own]
        return logits[:, 1] - logits[:, 0], similarity

    @torch.no_grad()
    def predict(self, loader: Iterable[ExampleBatch]) -> list[Scored]:
        """Score every item's texts with each of its images, in the order of the table."""
        found: list[Scored] = []
        for batch in loader:
            batch = batch.to(self.model.device)
            looked = [self.match(batch, i) for i in range(batch.image_index.shape[1])]
            truth = batch.targets.tolist()
            counts = (batch.targets >= 0).sum(dim=1).tolist()
            match = [scores.float().split(counts) for scores, _ in looked]
            similarity = looked[0][1].float().split(counts)
            for row, count in enumerate(counts):
                by_image = [scores[row].tolist() for scores in match]
                found.append(Scored(truth[row][:count], by_image, similarity[row].tolist()))
        return found

    @classmethod
    def remark(cls, items: Any) -> str:
        """Return the remark that one side is missing."""
        if _has_paraphrases(items.rows["truth"]):
            return ""
        return (
            "only one side is measured: these data have no paraphrases, and a model that rejects "
            "what is true but new would pass; measure it on a set with paraphrases too"
        )

    def evaluate(self, predictions: list[Scored], items: Any) -> dict[str, float]:
        """Return the metrics of ``fine_grained_metrics``."""
        rows = items.rows
        sets, categories = list(rows["set"]), list(rows["category"])
        return fine_grained_metrics(predictions, sets, categories, self.model.config.ranking)


def fine_grained_metrics(
    scored: list[Scored], sets: list[str], categories: list[str], ranking: str = "combined"
) -> dict[str, float]:
    """Both sides in percent, and each set's own metrics.

    ``accuracy``: the caption matches better than every wrong text; ``contrast/accuracy`` the same
    by similarity. ``captions_accepted`` and ``paraphrases_accepted``: a match is likelier than not.
    ``edits_rejected``: the same of wrong texts. ``both_sides`` is the mean of accuracy and of the
    acceptance of paraphrases; where there are none, both metrics are left out. ``ranking``, one of
    ``RANKINGS``, names what the model has trained: an untrained head is asked nothing.
    """
    contrast = torch.tensor([_margin(s.truth, s.similarity) for s in scored])
    by_contrast = {"contrast/accuracy": pairwise_accuracy(contrast, torch.zeros_like(contrast))}
    if ranking == "contrastive":
        return by_contrast
    margins = torch.tensor([_margin(s.truth, s.match[0]) for s in scored])
    caption = [s.match[0][0] > 0 for s in scored]
    pairs = [list(zip(s.truth, s.match[0], strict=True)) for s in scored]
    paraphrase = [score > 0 for texts in pairs for true, score in texts[1:] if true]
    edits = [score <= 0 for texts in pairs for true, score in texts if not true]
    metrics = {
        "accuracy": pairwise_accuracy(margins, torch.zeros_like(margins)),
        **(by_contrast if ranking == "combined" else {}),
        "captions_accepted": _share(caption),
        "edits_rejected": _share(edits),
    }
    if paraphrase:
        accepted = metrics["paraphrases_accepted"] = _share(paraphrase)
        metrics["both_sides"] = (metrics["accuracy"] + accepted) / 2
    for name in dict.fromkeys(sets):
        at = [i for i, other in enumerate(sets) if other == name]
        metrics |= _own_metrics(name, [scored[i] for i in at], [categories[i] for i in at])
    return metrics


def _own_metrics(name: str, scored: list[Scored], categories: list[str]) -> dict[str, float]:
    """Return the metrics that a set's authors report."""
    if name == "winoground":
        scores = torch.tensor([s.match for s in scored])  # [N, image, caption]
        return {f"winoground/{part}": value for part, value in winoground_scores(scores).items()}
    correct = torch.tensor([_margin(s.truth, s.match[0]) > 0 for s in scored])
    smallest, outside = SMALLEST_CATEGORY.get(name, 1), OUTSIDE_MEAN.get(name, frozenset())
    metrics: dict[str, float] = {}
    counts = Counter(categories)
    if any(count >= smallest for other, count in counts.items() if other not in outside):
        by_category, macro = accuracy_by_category(correct, categories, smallest, outside)
        metrics = {f"{name}/macro": macro}
        metrics |= {f"{name}/{category}": value for category, value in by_category.items()}
    if name == "sugarcrepe++":
        margins = torch.tensor([_margin(s.truth, s.match[0], hardest=True) for s in scored])
        metrics["sugarcrepe++/both_captions"] = pairwise_accuracy(margins, 0 * margins)
    if name == "valse":
        # Doubles: probabilities near one stay apart, as their log-odds are.
        match = torch.tensor([s.match[0] for s in scored], dtype=torch.double).sigmoid()
        pieces = {f"{p}/": [c == p for c in categories] for p in dict.fromkeys(categories)}
        for piece, rows in {"": [True] * len(scored), **pieces}.items():
            caption, foil = match[torch.tensor(rows)].unbind(dim=1)
            metrics |= {f"valse/{piece}{k}": v for k, v in valse_metrics(caption, foil).items()}
    return metrics


def _changed_kind(caption: str, edit: str) -> str:
    """Return the class of the word that an edit changed: colour, shape, ..."""
    words = zip(caption.split(), edit.split(), strict=True)
    changed = next(a for a, b in words if a != b)
    return word_class(changed.strip(",.:")) or "other"


def _margin(truth: list[int], scores: list[float], hardest: bool = False) -> float:
    """How far the caption (or the hardest true text) is above the best wrong text."""
    true = [score for is_true, score in zip(truth, scores, strict=True) if is_true]
    wrong = [score for is_true, score in zip(truth, scores, strict=True) if not is_true]
    return (min(true) if hardest else true[0]) - max(wrong)


def _has_paraphrases(truth: Iterable[list[int]]) -> bool:
    return any(sum(of_item) > 1 for of_item in truth)


def _share(hits: list[bool]) -> float:
    return 100 * sum(hits) / max(len(hits), 1)
