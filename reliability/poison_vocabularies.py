"""Tokenizers that do not fit their language model, or are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM

from vilta.data.collate import PairCollator
from vilta.data.text import TextDataset
from vilta.finished_run import load_text_encoder
from vilta.model.encoder_checks import check_text_encoder
from vilta.model.language_model import load_tokenizer, new_tokenizer
from vilta.objectives.vocabulary import hash_of_words, read_vocabulary

TEXTS = ["a red dog on the green grass", "two cats sit under a table"]
Change = Callable[[dict[str, Any]], Any]


def use(folder: Path) -> str:
    """Do with tokenizer and model what a run does before its first step, and take one."""
    tokenizer = load_tokenizer(str(folder))
    model = load_text_encoder(str(folder))
    check_text_encoder(model, 16)
    words = read_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    hash_of_words(tokenizer)
    texts = TextDataset(TEXTS, "x")
    batch = PairCollator(tokenizer, 16, None, 0)([texts[0, row] for row in range(len(TEXTS))])
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert logits.isfinite().all(), "logits are not finite"
    known = (batch.word_ids >= 0).sum().item()
    return f"read {len(tokenizer)} words, {len(words.regular)} regular; {known} tokens of words"


def pair(words: int = 0, padding: int = 0, **files: Change) -> Callable[[Path], Path]:
    """Return what writes tokenizer and model, the model with so many words, files changed."""

    def write(folder: Path) -> Path:
        tokenizer = new_tokenizer(TEXTS * 9, 90)
        tokenizer.save_pretrained(folder)
        size = words or len(tokenizer)
        shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = BertConfig(vocab_size=size, intermediate_size=8, pad_token_id=padding, **shape)
        BertForMaskedLM(config).save_pretrained(folder)
        for name, change in files.items():
            path = folder / f"{name}.json"
            content = json.loads(path.read_text())
            changed = change(content)
            content = content if changed is None else changed
            is_raw = isinstance(content, bytes)
            path.write_bytes(content if is_raw else json.dumps(content).encode())
        return folder

    return write


def ids(change: Callable[[dict[str, int]], Any]) -> Callable[[Path], Path]:
    """Return what writes a tokenizer whose words have other numbers."""
    return pair(tokenizer=lambda content: change(content["model"]["vocab"]) and None)


def config(**settings: Any) -> Callable[[Path], Path]:
    """Return what writes a tokenizer with other settings."""
    return pair(tokenizer_config=lambda content: content.update(settings))


def _swapped(words: dict[str, int]) -> None:
    words["[MASK]"], words["[CLS]"] = words["[CLS]"], words["[MASK]"]


POISONS: dict[str, Callable[[Path], Path]] = {
    "as it should be": pair(),
    "a model with more words": pair(words=200),
    "a model with fewer words": pair(words=40),
    "a model that pads with another word": pair(padding=7),
    "a number beyond the model": ids(lambda words: words.update(dog=5_000)),
    "a number beyond all machines": ids(lambda words: words.update(dog=2**40)),
    "a negative number": ids(lambda words: words.update(dog=-1)),
    "two words with one number": ids(lambda words: words.update(dog=words["cats"])),
    "a gap in the numbers": ids(lambda words: words.pop("dog")),
    "mask and start swapped": ids(_swapped),
    "no words": ids(lambda words: words.clear()),
    "no mask": config(mask_token=None),
    "no padding": config(pad_token=None),
    "nothing for unknown words": pair(
        tokenizer=lambda content: content["model"].update(unk_token="nowhere")),
    "a word for the mask that is none": config(mask_token="[NOTHING]"),
    "code of its own": config(
        tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]}),
    "no JSON": pair(tokenizer=lambda content: b"\xff\xfe<html>"),
    "an empty object": pair(tokenizer=lambda content: {}),
    "another kind of model": pair(tokenizer=lambda content: content.update(model={"type": "X"})),
    "padding on the left": config(padding_side="left"),
    "longest text of no words": config(model_max_length=0),
}  # fmt: skip
