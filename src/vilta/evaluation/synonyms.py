"""Words and their synonyms: what a model gives them, and which negatives are made of them.

One-hot labels punish a synonym of the masked word as they punish any other word; a language model's
soft labels do not. This measures the claim itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vilta.evaluation.masked_words import masked_word_logits
from vilta.model import ViltaForPreTraining
from vilta.scenes.words import COLOURS, SHAPES, SIZES, TEXTURES

Groups = dict[str, tuple[tuple[str, ...], ...]]
"""By kind of word: groups of words that mean the same."""

SCENES: Groups = {
    "colour": tuple(COLOURS.values()),
    "shape": tuple(SHAPES.values()),
    "size": tuple(SIZES.values()),
    "texture": tuple(TEXTURES.values()),
}
PHOTOS: Groups = {
    "person": (("man", "guy"), ("woman", "lady"), ("boy",), ("girl",), ("baby", "infant")),
    "people": (("men", "guys"), ("women", "ladies"), ("boys",), ("girls",)),
    "child": (("child", "kid", "toddler"), ("adult",)),
    "children": (("children", "kids"), ("adults",)),
    "vehicle": (("bike", "bicycle"), ("motorcycle", "motorbike"), ("car",), ("boat",)),
    "dog": (("dog", "puppy"), ("cat",), ("horse",), ("bird",)),
    "place": (("street", "road"), ("beach", "shore"), ("forest", "woods"), ("field", "meadow")),
    "thing": (("couch", "sofa"), ("bench",), ("table",)),
    "size": (("small", "little", "tiny"), ("large", "big", "huge")),
}
"""Written by hand before any run; a kind's groups exclude one another, or nearly so."""


@torch.no_grad()
def synonym_metrics(
    model: ViltaForPreTraining,
    loader: Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    groups: Groups,
) -> dict[str, float]:
    """Mean probability in percent, over masked words that have a synonym of one token.

    ``true`` is the word itself, ``synonym`` the sum over the others of its group, ``wrong`` the sum
    over the other groups of its kind; ``count`` is how many words were looked at. All with the
    right image. Empty if there were none.
    """
    tables = token_groups(tokenizer, groups)
    sums, count = torch.zeros(3, dtype=torch.double), 0
    for batch in loader:
        batch = batch.to(model.device)
        words = batch.input_ids.flatten()[batch.masked_positions].tolist()
        known = [i for i, word in enumerate(words) if word in tables]
        if not known:
            continue
        probabilities = masked_word_logits(model, batch)["with_image"][known].float().softmax(1)
        for row, i in zip(probabilities, known, strict=True):
            synonyms, wrong = tables[words[i]]
            sums += (
                torch.stack([row[words[i]], row[synonyms].sum(), row[wrong].sum()]).double().cpu()
            )
        count += len(known)
    if not count:
        return {}
    true, synonym, wrong = (100 * sums / count).tolist()
    return {"true": true, "synonym": synonym, "wrong": wrong, "count": float(count)}


def token_groups(
    tokenizer: PreTrainedTokenizerBase, groups: Groups
) -> dict[int, tuple[list[int], list[int]]]:
    """Return for each word that has synonyms the tokens of these, and those of the wrong words."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for kind in groups.values():
        tokens = [[t for word in group if (t := _token(tokenizer, word)) >= 0] for group in kind]
        for group in tokens:
            wrong = [token for other in tokens if other is not group for token in other]
            for token in group:
                if len(group) > 1:
                    found[token] = ([other for other in group if other != token], wrong)
    return found


class SynonymTable(nn.Module):
    """Which of a vocabulary's tokens are synonyms by the lists above; never saved."""

    meaning: Int[Tensor, "V N"]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        super().__init__()
        meaning = torch.full((size, 2), -1)
        for column, groups in enumerate((SCENES, PHOTOS)):
            for token, (synonyms, _) in token_groups(tokenizer, groups).items():
                meaning[token, column] = min(token, *synonyms)
        self.register_buffer("meaning", meaning, persistent=False)

    def exchanged(
        self,
        before: Int[Tensor, "B L"],
        after: Int[Tensor, "B L"],
        changed: Bool[Tensor, "B L"],
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return which share of the changed words that have a synonym were replaced by one.

        Also returns how many have one; the share is NaN if none has.
        """
        old, new = self.meaning[before], self.meaning[after]  # [B, L, 2]
        known = old >= 0
        count = (changed & known.any(-1)).sum()
        hits = (changed & (known & (old == new)).any(-1)).sum()
        return (hits / count.clamp(min=1)).where(count > 0, torch.nan), count


def _token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    """Return a word's token in the middle of a text, or -1 if it is several or unknown."""
    tokens = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][1:]
    unknown = len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id
    return -1 if unknown else tokens[0]
