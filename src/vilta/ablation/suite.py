"""The measurements that every arm gets, on the same items: on its way and at its end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vilta.ablation.grid import ITEMS
from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.data.collate import PairCollator
from vilta.data.corruption import Corrupted, Corruption
from vilta.data.examples import Examples
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.masked_words import masked_word_metrics
from vilta.evaluation.retrieval import (
    encode_gallery,
    encode_images,
    flat_retrieval_metrics,
    match_scores,
    trained_ranking,
    trained_stages,
)
from vilta.evaluation.synonyms import PHOTOS, SCENES, synonym_metrics
from vilta.model.configuration import RANKINGS
from vilta.objectives.masking import mask_words
from vilta.tasks.fine_grained import (
    FineGrainedMatching,
    FineGrainedSettings,
    Scored,
    fine_grained_metrics,
)
from vilta.tasks.pretraining import PretrainingTask

BATCH = 64
SEED = 0
"""Of masks and of all else that is drawn in an evaluation: one for all runs."""
MASKS = ObjectiveConfig()
"""Masks of the evaluation, whatever an arm trains with: 15 % of the words, mask only."""
SYNONYM_MASK_RATE = 0.4
"""More words are masked where synonyms are counted, of which few images have many (our choice)."""


class Suite:
    """A model, and the items that it is measured on."""

    def __init__(
        self,
        config: AblateConfig,
        settings: PretrainConfig,
        task: PretrainingTask,
        *,
        tuning: bool = False,
    ) -> None:
        """Read the items: for ``tuning``, other pairs than those that the arms are compared on.

        Raises ``ValueError`` in one line if they cannot be read.
        """
        self.task = task
        # Cached: they are read again at each evaluation.
        data = replace(settings.data, workers=0, cache=True, caption_noise=0.0)
        if not data.val:
            raise ValueError("data.val of the base must name held-out pairs")
        table = load_pairs(data.val, strict=data.strict)
        first = config.images if tuning else 0
        if first >= len(table):
            raise ValueError(
                f"{data.val} has {len(table)} pairs, all of which the arms are compared on: "
                "none is left to tune on; lower --images or name more in data.val"
            )
        self.pairs = table.select(range(first, min(first + config.images, len(table))))
        dataset = PairDataset(self.pairs, data, SEED, False, data.val)
        self.loader, self.synonym_loader = (
            evaluation_loader(dataset, self.collator(rate), batch_size=BATCH)
            for rate in (MASKS.mask_rate, SYNONYM_MASK_RATE)
        )
        self.items = read_items(config)
        model: Any = task.model  # pre-training's model has all that the task asks of one
        self.edits = FineGrainedMatching(model, task.tokenizer, FineGrainedSettings(), self.items)
        self.edits_loader = evaluation_loader(
            self.edits.dataset(self.items, data, SEED, train=False),
            self.edits.collator(data.max_text_tokens),
            batch_size=BATCH,
        )

    def collator(self, mask_rate: float) -> PairCollator:
        """Return what masks the evaluation's words: the same in all arms, however they train."""
        mask = partial(
            mask_words,
            vocabulary=self.task.words.tables(),
            rate=mask_rate,
            content_weight=MASKS.content_weight,
            scheme=MASKS.mask_scheme,
        )
        return PairCollator(self.task.tokenizer, self.task.model.config.max_text_tokens, mask, SEED)

    @property
    def ranking(self) -> str:
        """What the arm trains to rank by, one of ``RANKINGS``."""
        return trained_ranking(self.task.objective)

    @torch.no_grad()
    def on_the_way(self) -> dict[str, float]:
        """Return what is measured at each evaluation, in percent, as flat names."""
        return self.of_pairs() | self.edit_metrics(self.scored(self.edits_loader))

    @torch.no_grad()
    def of_pairs(self) -> dict[str, float]:
        """Return what is measured on pairs, without the fine-grained items."""
        metrics = {f"retrieval/{name}": v for name, v in self.retrieval(self.loader).items()}
        masked = masked_word_metrics(self.task.model, self.loader)
        return metrics | {f"masked_words/{view}": found["top1"] for view, found in masked.items()}

    @torch.no_grad()
    def synonyms(self) -> dict[str, float]:
        """Return how much probability the synonyms of masked words get, in percent."""
        groups = SCENES if self.pairs[0]["source"] == "scenes" else PHOTOS
        found = synonym_metrics(self.task.model, self.synonym_loader, self.task.tokenizer, groups)
        return {f"synonyms/{name}": value for name, value in found.items()}

    @torch.no_grad()
    def corrupted(self, corruption: Corruption) -> dict[str, float]:
        """Return retrieval and, where matching is trained, edits on damaged images."""
        found = {"retrieval": self.retrieval(Corrupted(self.loader, corruption))["mean_recall"]}
        if self.ranking != "contrastive":
            scored = self.scored(Corrupted(self.edits_loader, corruption))
            found["edits"] = self.edit_metrics(scored)["edits/accuracy"]
        return {f"corrupted/{corruption.name}/{name}": value for name, value in found.items()}

    def retrieval(self, loader: Iterable[Any]) -> dict[str, float]:
        """Rank all pairs by matching and, where it was trained, by contrast too.

        ``mean_recall`` is the average of R@1/5/10 both ways by the ranking that says most: matching
        and contrast together where both were trained, else matching.
        """
        model, ranking = self.task.model, self.ranking
        images = encode_images(model, (batch.pixel_values for batch in loader))
        captions = [[group[0]] for group in self.pairs["captions"]]
        gallery = encode_gallery(model, self.task.tokenizer, images, captions)
        every = torch.ones_like(gallery.similarity, dtype=torch.bool)
        match = None if ranking == "contrastive" else match_scores(model, gallery, every)
        found = flat_retrieval_metrics(gallery, match, ranking)
        trained = [name for name in trained_stages(ranking) if name in RANKINGS]
        means = {name: found[f"{name}/mean_recall"] for name in trained}
        return {**means, "mean_recall": means[ranking]}

    def scored(self, loader: Iterable[Any]) -> list[Scored]:
        """Return how well the texts of each item match its image."""
        return self.edits.predict(loader)

    def blind(self) -> list[Scored]:
        """Return the same with each item shown another image of its batch."""
        return self.edits.predict(map(_other_images, self.edits_loader))

    def edit_metrics(self, scored: list[Scored]) -> dict[str, float]:
        """Return both sides of fine-grained matching, and accuracy by kind of edit.

        By the heads that the arm trains.
        """
        rows = self.items.rows
        categories = [str(category) for category in rows["category"]]
        found = fine_grained_metrics(scored, ["kind"] * len(scored), categories, self.ranking)
        return {f"edits/{name.replace('edits_', '')}": value for name, value in found.items()}


def read_items(config: AblateConfig) -> Examples:
    """Return the fine-grained items.

    Raises ``ValueError`` in one line if they cannot be read, or are not those that the comparison
    was begun with: other runs were measured on those.
    """
    items = FineGrainedMatching.read(config.edits, config.edits_images, FineGrainedSettings())
    assert isinstance(items, Examples)
    if 0 < config.edit_items < len(items):
        places = [i * len(items) // config.edit_items for i in range(config.edit_items)]
        items = replace(items, rows=items.rows.select(places))
    known = Path(config.out) / ITEMS
    if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != as_records(items):
        raise ValueError(
            f"the items of {config.edits} are not those that {config.out} was begun with (the "
            "file, or the version of vilta, has changed); choose another --out"
        )
    return items


def as_records(items: Examples) -> list[dict[str, Any]]:
    """Return the texts of the fine-grained items, and the image and kind of each."""
    return [
        {
            "image": row["images"][0],
            "texts": list(row["texts"]),
            "truth": list(row["truth"]),
            "category": str(row["category"]),
        }
        for row in items.rows
    ]


def _other_images(batch: Any) -> Any:
    """Show each item the image after its own; a batch with a single image stays as it is."""
    shifted = (batch.image_index + 1) % len(batch.pixel_values)
    return replace(batch, image_index=shifted)
