"""`vilta finetune TASK --from RUN --data.train ... --data.val ...`: fine-tunes a run on a task."""

from __future__ import annotations

import copy
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from vilta.apps.run_calibration import calibrate_release
from vilta.config.finetune import FinetuneConfig
from vilta.config.ranges import check_config
from vilta.data.examples import Examples, PairItems
from vilta.data.loading import evaluation_loader, first_batches, loader_for, order_of
from vilta.data.samples import ImageMaker, fingerprint
from vilta.model.configuration import CALIBRATION, ViltaConfig, read_config
from vilta.model.encoder_checks import check_image_encoder, check_text_encoder
from vilta.model.language_model import load_tokenizer
from vilta.model.modeling import WithMatching
from vilta.model.pretrained import ViltaPreTrainedModel
from vilta.new_model import freeze_encoders
from vilta.objectives.vocabulary import hash_of_words
from vilta.report.model_card import update_card
from vilta.screen import command, command_again, counted, notes, progress, shown
from vilta.seeds import derived
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.held_out import refuse_overlap
from vilta.tasks.registry import find_task
from vilta.training.batch_size import with_batch_size
from vilta.training.folder import CONFIG, MODEL, check_run_folder, model_folder
from vilta.training.loop import train

EVALUATION_BATCH = 128


def run(task: str, config: FinetuneConfig) -> dict[str, Any] | None:
    """Fine-tune on ``data.train`` and release ``run.out/model``, the best one on ``data.val``.

    ``task`` is a task's name, or the YAML file that ``config`` was read from. Returns a summary, on
    the first process. Raises ``ValueError``
    in one line for anything the user can fix.
    """
    if not task.endswith((".yaml", ".yml")):
        config = replace(config, task=task)
    if not config.task:
        raise ValueError(f"{task} names no task; add a line such as `task: vqa`")
    check_config(config)
    if config.scratch and config.freeze:
        raise ValueError("--scratch gives random weights, which --freeze would keep; name one")
    check_run_folder(config.run)
    kind = find_task(config.task)
    if not kind.trainable:
        raise ValueError(
            f"{config.task} is measured, not trained; use vilta evaluate RUN --task {config.task}"
        )
    if not config.start:
        raise ValueError("--from must name the pre-trained run to start from, e.g. runs/demo")
    read_config(model_folder(config.start))  # before the items, which may take minutes to read
    with progress(f"reading {shown(config.data.train)}"):
        items = kind.read(config.data.train, config.data.images, config.settings)
    kind.require_answers(items)
    held_out = None
    if config.data.val:
        with progress(f"reading {shown(config.data.val)}"):
            held_out = kind.read(config.data.val, config.data.images, config.settings.held_out())
            kind.require_answers(held_out)
            refuse_overlap(config, items, held_out)
    notes.print(
        f"{counted(len(items), 'training item')} from {items.name}"
        + (f"; checkpoints are chosen on {len(held_out):,} of {held_out.name}" if held_out else "")
    )
    torch.manual_seed(derived(config.run.seed, "model"))
    model, tokenizer = start_model(kind, config, items)
    freeze_encoders(model, config.freeze)
    selection_metric = kind.selection_metric_for(held_out or items)
    sizes = {name: getattr(model.config, name) for name in ("image_size", "max_text_tokens")}
    config = replace(config, data=replace(config.data, **sizes))
    trained = kind(model, tokenizer, config.settings, items)
    collator = trained.collator(config.data.max_text_tokens)
    build = partial(
        trained.dataset, data=config.data, seed=config.run.seed, blind=config.data.blind
    )
    dataset = build(items, train=True)
    first = partial(first_batches, dataset, collator, data=config.data, seed=config.run.seed)
    config = with_batch_size(config, partial(copy.deepcopy, trained), first, len(items))
    config = resolved(config, selection_metric, len(items))
    evaluate = None
    if held_out is not None:
        trained.check(held_out)
        loader = evaluation_loader(
            build(held_out, train=False),
            collator,
            batch_size=EVALUATION_BATCH,
            workers=config.data.workers,
        )

        def evaluate() -> dict[str, float]:
            return trained.evaluate(trained.predict(loader), held_out)

    summary = train(
        trained,
        loader_for(dataset, collator, config.optimization, config.data, seed=config.run.seed),
        optimization=config.optimization,
        run=config.run,
        config=config,
        fingerprint=fingerprint(items.rows),
        vocabulary=hash_of_words(tokenizer),
        resume=command_again("finetune", f"{config.run.out}/{CONFIG}", "--run.resume"),
        order=order_of(dataset, config.optimization, config.data),
        evaluate=evaluate,
        samples_per_epoch=len(dataset),
        bad_samples=(lambda: dataset.counts["bad"]) if isinstance(dataset, ImageMaker) else None,
    )
    summary.exit_if_stopped()
    many = isinstance(held_out, PairItems) and len(held_out) > 1
    if many and isinstance(model, WithMatching) and PartialState().is_main_process:
        place = Path(config.run.out) / MODEL
        notes.print(calibrate_release(model, tokenizer, loader, place, config.data.val))
    update_card(config.run.out)
    return summary.released(config.run, next_command(config))


def next_command(config: FinetuneConfig) -> str:
    """Return the call that evaluates the run, on the validation data if there are any."""
    words = ["evaluate", config.run.out, "--data", config.data.val or "TEST"]
    return command(*words, *(["--images", config.data.images] if config.data.images else []))


def start_model(
    kind: type[FinetuningTask], config: FinetuneConfig, items: Examples | PairItems
) -> tuple[ViltaPreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model to start from, with a new head for the labels of the training items.

    It is not calibrated, for the calibration of the start holds for the weights of the start.
    """
    folder = model_folder(config.start)
    changes: dict[str, Any] = {name: getattr(ViltaConfig, name) for name in CALIBRATION}
    changes |= {
        name: size
        for name, size in {
            "image_size": config.data.image_size,
            "max_text_tokens": config.data.max_text_tokens,
        }.items()
        if size
    }
    if kind.trained_heads - {read_config(folder).ranking}:
        changes["ranking"] = "combined"  # what the start has trained, and what is trained here
    labels = kind.labels(items, config.settings)
    if labels:
        refuse_other_labels(kind, folder, labels)
        changes |= {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    if config.scratch:
        settings = read_config(folder, **changes)
        settings.freeze_batch_norm = False
        model = kind.model_class(settings)
    else:
        model = kind.model_class.from_pretrained(folder, dtype=torch.float32, **changes)
    check_image_encoder(model.vilta.vision, model.config.image_size)
    check_text_encoder(model.vilta.text, model.config.max_text_tokens)
    return model, load_tokenizer(str(folder))


def refuse_other_labels(kind: type[FinetuningTask], folder: Path, labels: list[str]) -> None:
    """Refuse a checkpoint of this task whose labels are not those of the data."""
    settings = read_config(folder)
    if kind.model_class.__name__ not in (settings.architectures or []):
        return
    known = [settings.id2label[i] for i in range(len(settings.id2label))]
    if known != labels:
        first = next((label for label in labels if label not in known), "in another order")
        raise ValueError(
            f"{folder} knows {len(known)} labels and the data have {len(labels)}, the first that "
            f"differs: {first!r}; start from a pre-training run"
        )


def resolved(config: FinetuneConfig, selection_metric: str, items: int) -> FinetuneConfig:
    """Return the settings completed from the number of items.

    ``epochs`` become steps; the run evaluates once an epoch unless it says otherwise.
    """
    steps, run_, per_step = config.optimization, config.run, config.optimization.samples_at_once
    per_step *= steps.accumulate * int(os.environ.get("WORLD_SIZE", "1"))
    if config.epochs:
        steps = replace(steps, steps=max(1, math.ceil(config.epochs * items / per_step)))
    epoch = math.ceil(items / per_step)
    run_ = replace(
        run_,
        selection_metric=run_.selection_metric or selection_metric,
        evaluate_every=run_.evaluate_every or epoch,
        save_every=run_.save_every or epoch,
    )
    return replace(config, optimization=steps, run=run_)
