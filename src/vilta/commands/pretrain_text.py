"""`vilta pretrain-text CONFIG.yaml`: trains the language model for text encoder and teacher."""

from __future__ import annotations

import copy
import unicodedata
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.config import DataConfig, PretrainTextConfig
from vilta.config.ranges import check_config
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader, first_batches, loader_for, order_of
from vilta.data.sources import SourceOptions, named_options
from vilta.data.text import TextDataset, caption_lines
from vilta.data.word_borders import unknown_words_told
from vilta.model.language_model import (
    continue_language_model,
    load_tokenizer,
    new_language_model,
    new_tokenizer,
)
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import hash_of_words, read_vocabulary
from vilta.report.model_card import update_card
from vilta.screen import command, command_again, free_folder, notes
from vilta.seeds import derived
from vilta.tasks.language_modelling import LanguageModellingTask
from vilta.training.batch_size import with_batch_size
from vilta.training.folder import CONFIG, MODEL, check_run_folder
from vilta.training.loop import train

EVALUATION_BATCH = 512
HELD_OUT = 100
"""Without ``data.val``, every 100th caption is held out; our choice."""


def run(config: PretrainTextConfig) -> dict[str, Any] | None:
    """Train on captions and release ``run.out/model``, model and tokenizer.

    Returns a summary, on the first process. Raises ``ValueError`` in one line for anything the user
    can fix.
    """
    check_config(config)
    check_run_folder(config.run)
    data = config.data
    captions = caption_lines(data.train)
    held_out = caption_lines(data.val) if data.val else captions[::HELD_OUT]
    # A held-out sentence may occur again, perhaps with other case or punctuation.
    kept = {_letters(caption) for caption in held_out}
    captions = [caption for caption in captions if _letters(caption) not in kept]
    if not captions:
        why = f"in {data.val} too" if data.val else f"held out, as every {HELD_OUT}th is"
        raise ValueError(f"{data.train}: all of its captions are {why}; name more, or others")
    torch.manual_seed(derived(config.run.seed, "model"))
    model, tokenizer = _model_and_tokenizer(config, captions)
    if told := unknown_words_told(captions, tokenizer):
        notes.print(f"warning: {told}")
    task = LanguageModellingTask(model, tokenizer)

    mask = partial(
        mask_words,
        vocabulary=read_vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0]),
        rate=config.mask_rate,
        scheme="80-10-10",
    )
    collator = PairCollator(tokenizer, data.max_text_tokens, mask, config.run.seed)
    dataset = TextDataset(captions, data.train)
    first = partial(first_batches, dataset, collator, data=data, seed=config.run.seed)
    config = with_batch_size(config, partial(copy.deepcopy, task), first, len(dataset))
    steps = config.optimization
    loader = evaluation_loader(
        TextDataset(held_out, data.val or f"{data.train} (held out)"),
        collator,
        batch_size=EVALUATION_BATCH,
        workers=data.workers,
    )
    summary = train(
        task,
        loader_for(dataset, collator, steps, data, seed=config.run.seed),
        optimization=steps,
        run=config.run,
        config=config,
        fingerprint=f"{derived(*captions):x}",
        vocabulary=hash_of_words(tokenizer),
        resume=command_again("pretrain-text", f"{config.run.out}/{CONFIG}", "--run.resume"),
        order=order_of(dataset, steps, data),
        evaluate=partial(task.evaluate, loader),
        samples_per_epoch=len(dataset),
    )
    summary.exit_if_stopped()
    update_card(config.run.out)
    return summary.released(config.run, next_command(config))


def next_command(config: PretrainTextConfig) -> str:
    """Return the call that pre-trains with this text encoder, on its data if they have images."""
    train, val = config.data.train, config.data.val
    words = ["--model.text", f"{config.run.out}/{MODEL}"]
    words += ["--data.train", "DATA" if _is_text(train) else train]
    if val and not _is_text(val):
        words += ["--data.val", val]
    if (most := config.data.max_text_tokens) < DataConfig().max_text_tokens:
        words += ["--data.max-text-tokens", str(most)]  # a new model has no position after them
    return command("pretrain", *words, "--run.out", free_folder("runs/mine"))


def _is_text(path: str) -> bool:
    return named_options(path, SourceOptions())[0].endswith((".txt", ".gz"))


def _letters(caption: str) -> str:
    kept = (c for c in caption.lower() if unicodedata.category(c)[0] in "LMN")
    return "".join(kept)  # letters, vowel signs and other marks on them, digits


def _model_and_tokenizer(
    config: PretrainTextConfig, captions: list[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    settings = config.model
    if settings.start:
        return continue_language_model(settings.start), load_tokenizer(settings.start)
    tokenizer = new_tokenizer(captions, settings.vocabulary, settings.strip_accents)
    model = new_language_model(
        len(tokenizer),
        settings.width,
        settings.layers,
        settings.heads,
        settings.dropout,
        config.data.max_text_tokens,
    )
    return model, tokenizer
