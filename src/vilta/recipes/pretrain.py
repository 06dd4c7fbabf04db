"""`vilta pretrain CONFIG.yaml`: two encoders, a fusion, image-text pairs; the method itself."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.config import PretrainConfig
from vilta.data.collate import PairCollator
from vilta.data.corpora import load_pairs
from vilta.data.loading import evaluation_loader, loader_for
from vilta.data.mixture import training_data
from vilta.data.order import derived
from vilta.data.samples import PairDataset, Samples
from vilta.model import ViltaForPreTraining
from vilta.model.attention import prefer_plain_attention
from vilta.model.encoders import load_text_encoder, pixel_statistics
from vilta.model.language_model import load_tokenizer
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import (
    Vocabulary,
    hash_of_words,
    require_same_words,
)
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.folder import check_run_folder
from vilta.training.loop import train

EVALUATION_BATCH = 128
PICTURED = 4
"""Held-out pairs that TensorBoard shows after each evaluation (our choice)."""


def run(config: PretrainConfig) -> None:
    """Pre-train, evaluate on ``data.val`` where it is given, and release ``run.out/model``.

    Raises ``ValueError`` in one line for anything the user can mend.
    """
    check_run_folder(config.run)
    config.objective.check()
    data, steps = config.data, config.optimization
    torch.manual_seed(derived(config.run.seed, "model"))
    tokenizer = load_tokenizer(config.model.text)
    model = build_model(config)
    task = PretrainingTask(model, tokenizer, config.objective, load_teacher(config, tokenizer))

    masked = masking_collator(config, tokenizer, task.words.tables())
    dataset, content = training_data(data, config.run.seed)
    evaluate = pictures = None
    if data.val:
        pairs = load_pairs(data.val, strict=data.strict)
        held_out = PairDataset(pairs, data, config.run.seed, False, data.val)
        loader = evaluation_loader(
            held_out, masked, batch_size=EVALUATION_BATCH, workers=data.workers
        )
        evaluate = partial(task.evaluate, loader)
        pictures = partial(example_pictures, task, held_out, masked)

    train(
        task,
        loader_for(dataset, masked, steps, data, seed=config.run.seed),
        optimization=steps,
        run=config.run,
        config=config,
        fingerprint=content,
        vocabulary=hash_of_words(tokenizer),
        resume=f"vilta pretrain {config.run.out}/config.yaml --run.resume",
        then=f"vilta evaluate {config.run.out} --data {data.val or 'DATA'}",
        evaluate=evaluate,
        pictures=pictures,
        samples_per_epoch=len(dataset) if isinstance(dataset, Samples) else 0,
        bad_samples=lambda: dataset.counts["bad"],
    )


def example_pictures(
    task: PretrainingTask, dataset: PairDataset, collator: PairCollator
) -> dict[str, UInt8[np.ndarray, "3 H W"]]:
    """Masked words and written negatives of a few held-out pairs, drawn for TensorBoard."""
    # Only here: drawing takes matplotlib, and the report imports this module.
    from vilta.recipes.report.examples import caption_examples
    from vilta.recipes.report.pictures import draw_masked_words, draw_negatives

    examples = caption_examples(task, dataset, collator, PICTURED)
    drawn = {"masked_words": draw_masked_words(examples)}
    if examples.rewritten:
        drawn["negatives"] = draw_negatives(examples)
    opened = {name: Image.open(io.BytesIO(png)).convert("RGB") for name, png in drawn.items()}
    return {name: np.asarray(picture).transpose(2, 0, 1) for name, picture in opened.items()}


def build_model(config: PretrainConfig) -> ViltaForPreTraining:
    """Join the two encoders that the config names."""
    settings = config.model
    mean, std = pixel_statistics(settings.image)
    model = ViltaForPreTraining.from_encoders(
        settings.image,
        settings.text,
        fusion=settings.fusion,
        fusion_layers=settings.fusion_layers,
        hidden_size=settings.fusion_width,
        num_attention_heads=settings.fusion_heads,
        pooling=settings.pooling,
        dropout=settings.dropout,
        initializer_range=settings.initializer_range,
        contrastive_width=settings.contrastive_width,
        image_size=config.data.image_size,
        max_text_tokens=config.data.max_text_tokens,
        image_mean=mean,
        image_std=std,
    )
    if config.run.device == "cpu" or not torch.accelerator.is_available():
        for encoder in (model.vilta.vision, model.vilta.text):
            prefer_plain_attention(encoder)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    frozen = {"image": model.vilta.vision, "text": model.vilta.text}
    for name in settings.freeze:
        frozen[name].requires_grad_(False)
    return model


def load_teacher(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | None:
    """Load the frozen language model if an objective asks for one; it must share the words."""
    objective = config.objective
    if objective.soft_labels != "language_model" and objective.negatives != "soft_label":
        return None
    if not objective.teacher:
        return load_text_encoder(config.model.text)
    require_same_words(tokenizer, load_tokenizer(objective.teacher))
    return load_text_encoder(objective.teacher)


def masking_collator(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> PairCollator:
    """Tokenise and mask as the objectives say."""
    objective = config.objective
    mask = partial(
        mask_words,
        vocabulary=vocabulary,
        rate=objective.mask_rate,
        content_weight=objective.content_weight,
        scheme=objective.mask_scheme,
    )
    return PairCollator(tokenizer, config.data.max_text_tokens, mask, config.run.seed)
