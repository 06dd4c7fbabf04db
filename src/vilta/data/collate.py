"""Samples to a batch: tokens, whole words, and the words to mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vilta.data.order import hashes_of_rows, noise_for
from vilta.data.word_borders import word_indices
from vilta.types import Batch, Sample

Mask = Callable[
    [Int[Tensor, "B L"], Int[Tensor, "B L"], Float32[Tensor, "B L 2"]],
    tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]],
]
"""``mask(input_ids, word_ids, noise) -> (masked_input_ids, selected)``. Must be picklable."""


class PairCollator:
    """Makes a :class:`Batch` of samples; a row depends on its sample alone, not on its neighbours.

    The masking rule is passed in: ``mask`` gets two uniform numbers in [0, 1) for each token and
    returns the masked ids and which tokens it selected. ``None`` masks nothing (M = 0).

    ``tokenizer`` must be a fast one, which knows the words that tokens belong to; a ``ValueError``
    says so otherwise.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_text_tokens: int,
        mask: Mask | None,
        seed: int,
    ) -> None:
        if not tokenizer.is_fast:
            name = type(tokenizer).__name__
            raise ValueError(f"{name} knows no word borders; use the model's fast tokenizer")
        self.tokenizer, self.max_text_tokens = tokenizer, max_text_tokens
        self.mask, self.seed = mask, seed
        self._special = torch.tensor(tokenizer.all_special_ids)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch, its texts padded on the right to the longest of them."""
        encoded = self.tokenizer(
            [s.caption for s in samples],
            padding="longest",
            padding_side="right",
            truncation=True,
            max_length=self.max_text_tokens,
            return_tensors="pt",
        )
        input_ids: Tensor = encoded["input_ids"]
        word_ids = self._word_ids(encoded, input_ids, [s.caption for s in samples])
        if self.mask is None:
            masked_ids, selected = input_ids, torch.zeros_like(input_ids, dtype=torch.bool)
        else:
            noise = self._noise(samples, input_ids.shape[1])
            masked_ids, selected = self.mask(input_ids, word_ids, noise)
        # What the model reads: letter case or an end that was cut away make no other caption.
        captions = hashes_of_rows(input_ids.numpy(), encoded["attention_mask"].numpy())
        return Batch(
            pixel_values=torch.stack([s.pixels for s in samples]),
            input_ids=input_ids,
            attention_mask=encoded["attention_mask"],
            word_ids=word_ids,
            masked_input_ids=masked_ids,
            masked_positions=selected.flatten().nonzero().squeeze(1),
            image_ids=torch.tensor([s.image_hash for s in samples]),
            caption_ids=torch.from_numpy(captions),
            names=tuple(s.name for s in samples),
        )

    def _word_ids(
        self, encoded: Any, input_ids: Int[Tensor, "B L"], captions: list[str]
    ) -> Int[Tensor, "B L"]:
        """Return word indices; a word that the tokenizer does not know counts as special."""
        rows = [word_indices(encoded, row, caption) for row, caption in enumerate(captions)]
        words = torch.tensor(rows)
        inside = torch.isin(input_ids, self._special) & (words >= 0)
        for row, place in inside.nonzero().tolist():  # rare: an unknown character
            words[row][words[row] == words[row, place]] = -1
        return words

    def _noise(self, samples: Sequence[Sample], length: int) -> Float32[Tensor, "B L 2"]:
        """Draw the numbers of ``mask``; those of a token do not depend on the padding."""
        noise = noise_for(self.seed, [(s.epoch, s.index) for s in samples], 2 * length)
        return torch.from_numpy(noise).view(len(samples), length, 2)
