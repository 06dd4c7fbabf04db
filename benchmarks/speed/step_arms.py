"""The models whose pre-training steps are compared: same sizes, same pairs, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BridgeTowerConfig,
    BridgeTowerForImageAndTextRetrieval,
    BridgeTowerForMaskedLM,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForImageAndTextRetrieval,
    ViltForMaskedLM,
    ViTConfig,
)

from vilta.config import ObjectiveConfig
from vilta.model import ViltaForPreTraining
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Batch

Losses = Callable[[Batch], Tensor]
"""The forward pass of a step."""
IGNORED = -100
MASK = 4


@dataclass(frozen=True)
class Size:
    """Sizes of a model and of a batch."""

    width: int
    heads: int
    layers: int
    """Of each encoder."""
    fusion_layers: int
    pixels: int
    tokens: int
    """The longest caption; the mean is 14."""
    words: int
    batch: int

    def bert(self) -> dict[str, Any]:
        """Return what all of the architectures call alike."""
        return {
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
            "vocab_size": self.words,
            "max_position_embeddings": 64,
        }


SIZES = {
    "tiny": Size(256, 4, 4, 2, 128, 32, 8192, 16),
    "base": Size(768, 12, 12, 6, 224, 50, 50265, 8),
}


def make_batch(size: Size, seed: int) -> Batch:
    """Draw pairs: captions of about 14 tokens (standard deviation 5), two masked words in each."""
    generator = torch.Generator().manual_seed(seed)
    rows = size.batch
    lengths = (14 + 5 * torch.randn(rows, generator=generator)).round().clamp(5, size.tokens)
    length = int(lengths.max())
    ids = torch.randint(5, size.words, (rows, length), generator=generator)
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = ids * mask
    selected = torch.zeros(rows, length, dtype=torch.bool)
    selected[:, [1, 3]] = True
    shape = (rows, 3, size.pixels, size.pixels)
    return Batch(
        pixel_values=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        input_ids=ids,
        attention_mask=mask,
        word_ids=torch.where(mask > 0, torch.arange(length)[None].expand(rows, -1), -1),
        masked_input_ids=torch.where(selected, MASK, ids),
        masked_positions=selected.flatten().nonzero().squeeze(1),
        image_ids=torch.arange(rows),
        caption_ids=torch.arange(rows),
        names=("",) * rows,
    )


def words(size: Size) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are whole."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [
        chr(97 + i // 676 % 26) + chr(97 + i // 26 % 26) + chr(97 + i % 26) for i in range(26**3)
    ]
    names = [*special, *letters, *(f"x{word}" for word in letters), *(f"y{w}" for w in letters)]
    vocabulary = {word: i for i, word in enumerate(names[: size.words])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[UNK]")),
        **{f"{name[1:-1].lower()}_token": name for name in special},
    )


def vilta_model(size: Size, fusion: str, image_pooling: str = "mean") -> ViltaForPreTraining:
    """Build vilta's model with a ViT and a BERT."""
    vision = ViTConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        image_size=size.pixels,
        patch_size=16,
    )
    return ViltaForPreTraining.from_encoders(
        vision,
        BertConfig(**size.bert(), num_hidden_layers=size.layers),
        fusion=fusion,
        fusion_layers=size.fusion_layers,
        hidden_size=size.width,
        num_attention_heads=size.heads,
        image_size=size.pixels,
        max_text_tokens=size.tokens,
        image_pooling=image_pooling,
    )


ARMS: dict[str, dict[str, Any]] = {
    "meter": {"soft_labels": "none", "negatives": "off", "itc_weight": 0.0, "text_mlm_weight": 0.0}
    | {"in_batch_negatives": "one"},
    "albef": {"soft_labels": "momentum", "negatives": "off", "text_mlm_weight": 0.0},
    "vilta": {},
}


def vilta_step(
    size: Size, arm: str, fusion: str, image_pooling: str = "mean"
) -> tuple[nn.Module, Losses]:
    """Return vilta's task with the objectives of ``ARMS[arm]``."""
    model = vilta_model(size, fusion, image_pooling)
    teacher = AutoModelForMaskedLM.from_config(
        BertConfig(**size.bert(), num_hidden_layers=size.layers)
    )
    task = PretrainingTask(model, words(size), ObjectiveConfig(**ARMS[arm]), teacher)
    return task, lambda batch: task(batch).total


def swapped(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return images of which every other is that of the row before, and the labels of matching."""
    own = torch.arange(len(batch), device=batch.input_ids.device)
    other = own % 2 == 1
    return batch.pixel_values[torch.where(other, own - 1, own)], (~other).long()


def labels_of(batch: Batch) -> Tensor:
    """Return the words to be found at the masked positions, ``IGNORED`` elsewhere."""
    return torch.where(batch.masked_input_ids != batch.input_ids, batch.input_ids, IGNORED)


def plain_step(size: Size) -> tuple[nn.Module, Losses]:
    """METER's flow with vilta's model: the whole model for each objective, texts padded to the
    longest possible, every word scored at every position."""
    model = vilta_model(size, "co-attention")

    def losses(batch: Batch) -> Tensor:
        missing = size.tokens - batch.input_ids.shape[1]
        masked, clean, mask, labels = (
            F.pad(ids, (0, missing), value=fill)
            for ids, fill in (
                (batch.masked_input_ids, 0),
                (batch.input_ids, 0),
                (batch.attention_mask, 0),
                (labels_of(batch), IGNORED),
            )
        )
        images, match = swapped(batch)
        states = model(masked, mask, batch.pixel_values).last_hidden_state
        logits = model.mlm_head(states.flatten(0, 1), model.get_input_embeddings().weight)
        mlm = F.cross_entropy(logits.float(), labels.flatten())
        return mlm + F.cross_entropy(model(clean, mask, images).match_logits.float(), match)

    return model, losses


class Peer(nn.Module):
    """A model of transformers with its two heads, both of which train one body."""

    def __init__(self, body: str, masked: nn.Module, matching: nn.Module) -> None:
        super().__init__()
        setattr(matching, body, getattr(masked, body))
        self.masked, self.matching = masked, matching

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of both losses, each of a pass of its own."""
        images, match = swapped(batch)
        given = {"attention_mask": batch.attention_mask}
        pixels, others = batch.pixel_values / 127.5 - 1, images / 127.5 - 1
        mlm = self.masked(
            input_ids=batch.masked_input_ids, pixel_values=pixels, labels=labels_of(batch), **given
        ).loss
        logits = self.matching(input_ids=batch.input_ids, pixel_values=others, **given).logits
        if logits.shape[1] == 1:  # ViLT ranks: one number, against 0
            logits = F.pad(logits, (1, 0))
        return mlm + F.cross_entropy(logits.float(), match)


def bridgetower_step(size: Size) -> tuple[nn.Module, Losses]:
    """Build transformers' BridgeTower (METER's successor) as it ships."""
    config = BridgeTowerConfig(
        hidden_size=size.width,
        num_attention_heads=size.heads,
        num_hidden_layers=size.fusion_layers,
        text_config=size.bert() | {"num_hidden_layers": size.layers},
        vision_config={
            "hidden_size": size.width,
            "num_hidden_layers": size.layers,
            "image_size": size.pixels,
            "patch_size": 16,
        },
    )
    heads = BridgeTowerForMaskedLM(config), BridgeTowerForImageAndTextRetrieval(config)
    model = Peer("bridgetower", *heads)
    return model, model


def vilt_step(size: Size) -> tuple[nn.Module, Losses]:
    """Build transformers' ViLT as it ships; one encoder reads text and image together."""
    layers = size.layers if size.width > 256 else size.layers + size.fusion_layers
    config = ViltConfig(
        **size.bert(),
        num_hidden_layers=layers,
        image_size=size.pixels,
        patch_size=16,
        max_image_length=-1,
    )
    model = Peer("vilt", ViltForMaskedLM(config), ViltForImageAndTextRetrieval(config))
    return model, model


STEPS: dict[str, Callable[[Size], tuple[nn.Module, Losses]]] = {
    "BridgeTower, transformers": bridgetower_step,
    "ViLT, transformers": vilt_step,
    "METER's flow, co-attention": plain_step,
    **{
        f"vilta `{arm}`, {fusion}": lambda size, arm=arm, fusion=fusion: vilta_step(
            size, arm, fusion
        )
        for arm in ARMS
        for fusion in ("co-attention", "cross-attention")
    },
    "vilta `vilta`, co-attention, first image token": lambda size: vilta_step(
        size, "vilta", "co-attention", "first"
    ),
}
"""Name of a row of the table -> what builds its model and the forward pass of its step."""
