"""Masked words by part of speech: what does the image add to the text alone?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from vilta.config import DataConfig
from vilta.config.finetune import TaskSettings
from vilta.data.collate import PairCollator
from vilta.data.examples import Examples, PairItems, read_pairs
from vilta.data.parts_of_speech import parts_of_speech
from vilta.data.samples import PairDataset
from vilta.evaluation.masked_words import masked_word_logits
from vilta.model import ViltaForPreTraining
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import read_vocabulary
from vilta.scenes import word_class
from vilta.tasks.finetuning import FinetuningTask
from vilta.types import Batch, Losses

Tagger = Callable[[Sequence[str]], list[str]]
"""Words of a sentence to the part of speech of each."""


class TokenHits(NamedTuple):
    """A masked token's part of speech, and whether it is ranked first, or among the first five."""

    part: str
    image_top1: bool
    image_top5: bool
    text_top1: bool
    text_top5: bool


class MaskedWords(FinetuningTask):
    """Reads pair tables. Measured only: pre-training is where masked words are learnt."""

    name = "masked-words"
    model: ViltaForPreTraining
    model_class = ViltaForPreTraining
    selection_metric = "gain/top1"
    needs_head = False
    trainable = False

    @classmethod
    def read(cls, path: str, images: str, settings: TaskSettings) -> PairItems:
        """Read any source of pairs that `vilta pack` reads."""
        return read_pairs(path, images)

    def check(self, items: Examples | PairItems) -> None:
        """Choose the words' parts: a tagger's, or for scenes the grammar's own classes."""
        scenes = items.rows[0]["source"] == "scenes"
        self.tag: Tagger = scene_parts if scenes else parts_of_speech

    def dataset(
        self, items: PairItems, data: DataConfig, seed: int, *, train: bool, blind: bool = False
    ) -> PairDataset:
        """Return the pairs; in evaluation each image's first caption."""
        return PairDataset(items.rows, data, seed, train, items.name)

    def collator(self, max_text_tokens: int) -> PairCollator:
        """Return the collator that masks 15 % of the words, content words and others alike."""
        size = self.model.get_input_embeddings().weight.shape[0]
        mask = partial(mask_words, vocabulary=read_vocabulary(self.tokenizer, size))
        return PairCollator(self.tokenizer, max_text_tokens, mask, 0)

    def forward(self, batch: Batch) -> Losses:
        """Refuse: there is nothing to fine-tune."""
        raise ValueError(
            "masked-words is measured, not trained; use vilta evaluate RUN --task masked-words"
        )

    @torch.no_grad()
    def predict(self, loader: Iterable[Batch]) -> list[TokenHits]:
        """Return for each masked token whether it is right, with the image and without."""
        tokens: list[TokenHits] = []
        for batch in loader:
            parts = self.parts(batch)
            batch = batch.to(self.model.device)
            words = batch.input_ids.flatten()[batch.masked_positions][:, None]
            logits = masked_word_logits(self.model, batch)
            found = [
                logits[view].topk(min(5, logits[view].shape[1]), dim=1).indices == words
                for view in ("with_image", "text_only")
            ]
            columns = [right for f in found for right in (f[:, 0], f.any(dim=1))]
            rows = torch.stack(columns, dim=1).tolist()
            tokens += [TokenHits(part, *row) for part, row in zip(parts, rows, strict=True)]
        return tokens

    def evaluate(self, predictions: list[TokenHits], items: Any) -> dict[str, float]:
        """Percent of masked tokens right, with the image and without, and the gain, by part.

        ``gain`` is the difference to the text encoder's own language model, in points.
        """
        by_part: dict[str, list[TokenHits]] = {"": predictions} if predictions else {}
        for token in predictions:
            by_part.setdefault(f"{token.part}/", []).append(token)
        metrics: dict[str, float] = {}
        for prefix, tokens in by_part.items():
            _, *hits = zip(*tokens, strict=True)
            image1, image5, text1, text5 = (100 * sum(column) / len(tokens) for column in hits)
            metrics |= {
                f"{prefix}with_image/top1": image1,
                f"{prefix}with_image/top5": image5,
                f"{prefix}text_only/top1": text1,
                f"{prefix}text_only/top5": text5,
                f"{prefix}gain/top1": image1 - text1,
                f"{prefix}gain/top5": image5 - text5,
                f"{prefix}count": len(tokens),
            }
        return metrics

    def parts(self, batch: Batch) -> list[str]:
        """Return the part of speech of each masked token, as ``masked_positions`` has them."""
        width = batch.input_ids.shape[1]
        tagged: dict[int, list[str]] = {}
        found: list[str] = []
        for position in batch.masked_positions.tolist():
            row, place = divmod(position, width)
            if row not in tagged:
                tagged[row] = self.tag(self._words(batch, row))
            found.append(tagged[row][int(batch.word_ids[row, place])])
        return found

    def _words(self, batch: Batch, row: int) -> list[str]:
        words: dict[int, list[int]] = {}
        for token, word in zip(
            batch.input_ids[row].tolist(), batch.word_ids[row].tolist(), strict=True
        ):
            if word >= 0:
                words.setdefault(word, []).append(token)
        last = max(words, default=-1)  # a word of unknown letters has no tokens of its own
        return [
            self.tokenizer.decode(words[i]).strip() if i in words else "?" for i in range(last + 1)
        ]


def scene_parts(words: Sequence[str]) -> list[str]:
    """Return the class of each word of a scene's caption: colour, shape, ..., or other."""
    return [word_class(word) or "other" for word in words]
