"""A pre-training run: two encoders and a fusion learn from image-text pairs.

`vilta pretrain` is one run, `vilta ablate` many.
"""

from __future__ import annotations

import copy
import io
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import UInt8
from PIL import Image

from vilta.apps.run_calibration import calibrate_release
from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.ranges import check_config
from vilta.config.yaml_file import load_yaml
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader, first_batches, loader_for, order_of
from vilta.data.mixture import some_captions, training_data
from vilta.data.samples import PairDataset, Samples
from vilta.data.sources import load_pairs
from vilta.data.word_borders import unknown_words_told
from vilta.finished_run import load_teacher
from vilta.metrics.names import flat
from vilta.model.language_model import load_tokenizer
from vilta.new_model import build_model
from vilta.objectives.vocabulary import hash_of_words
from vilta.report.model_card import update_card
from vilta.screen import command, command_again, notes
from vilta.seeds import derived
from vilta.tasks.pretraining import PretrainingTask
from vilta.tasks.pretraining_evaluation import evaluate_pretraining
from vilta.training.batch_size import with_batch_size
from vilta.training.checkpoint import find_checkpoint, read_weights
from vilta.training.folder import CONFIG, MODEL, check_run_folder
from vilta.training.loop import train
from vilta.training.phases import Phase
from vilta.training.processes import process_count

EVALUATION_BATCH = 128
EVALUATION_TOP_K = 16
"""Candidates that matching re-ranks in evaluations during training; our choice."""
PICTURED = 4
"""Held-out pairs that TensorBoard shows after each evaluation (our choice)."""


def pretrain(
    config: PretrainConfig,
    evaluation: Callable[[PretrainingTask], Callable[[], dict[str, float]]] | None = None,
) -> dict[str, Any] | None:
    """Pre-train, evaluate on ``data.val`` where it is given, and release ``run.out/model``.

    ``evaluation`` makes what measures the task on its way, in place of the metrics on ``data.val``.
    Returns a summary, on the first process. Raises ``ValueError`` in one line for anything the user
    can fix.
    """
    goes_on = check_run_folder(config.run)
    check_config(config)
    if goes_on:
        config = with_its_word_head(config)
    data = config.data
    # Before the model, whose parts may have to be downloaded: a wrong name of data is told at once.
    dataset, content = training_data(data, config.run.seed)
    held_out = None
    if data.val and evaluation is None:
        pairs = load_pairs(data.val, strict=data.strict)
        held_out = PairDataset(pairs, data, config.run.seed, False, data.val)
    torch.manual_seed(derived(config.run.seed, "model"))
    tokenizer = load_tokenizer(config.model.text)
    model = build_model(without_start(config) if goes_on else config)
    task = PretrainingTask(model, tokenizer, config.objective, load_teacher(config, tokenizer))
    if goes_on:
        refuse_other_teacher(task, Path(config.run.out))

    masked = task.collator(data.max_text_tokens, config.run.seed)
    samples = len(dataset) if isinstance(dataset, Samples) else 0
    first = partial(first_batches, dataset, masked, data=data, seed=config.run.seed)
    config = with_batch_size(config, partial(costliest, task), first, samples)
    config = with_steps(config, samples)
    steps = config.optimization
    if told := unknown_words_told(some_captions(dataset), tokenizer):
        notes.print(f"warning: {told}")
    evaluate = pictures = loader = None
    if evaluation is not None:
        evaluate = evaluation(task)
    elif held_out is not None:
        loader = evaluation_loader(
            held_out, masked, batch_size=EVALUATION_BATCH, workers=data.workers
        )

        def evaluate() -> dict[str, float]:
            found = evaluate_pretraining(
                task, loader, pairs, top_k=EVALUATION_TOP_K, together=process_count() > 1
            )
            # A run is calibrated when it ends.
            return flat({k: v for k, v in found.items() if k not in ("calibration", "reliability")})

        pictures = partial(example_pictures, task, held_out, masked)

    summary = train(
        task,
        loader_for(dataset, masked, steps, data, seed=config.run.seed),
        optimization=steps,
        run=config.run,
        config=config,
        fingerprint=content,
        vocabulary=hash_of_words(tokenizer),
        resume=command_again("pretrain", f"{config.run.out}/{CONFIG}", "--run.resume"),
        order=order_of(dataset, steps, data),
        evaluate=evaluate,
        pictures=pictures,
        samples_per_epoch=samples,
        bad_samples=lambda: dataset.counts["bad"],
        phases=phases_of(config.objective),
    )
    summary.exit_if_stopped()
    many = loader is not None and len(loader.dataset) > 1
    if many and PartialState().is_main_process:
        place = Path(config.run.out) / MODEL
        notes.print(calibrate_release(task.model, task.tokenizer, loader, place, data.val))
    update_card(config.run.out)
    then = command("evaluate", config.run.out, "--data", data.val or "DATA")
    return summary.released(config.run, then)


def without_start(config: PretrainConfig) -> PretrainConfig:
    """Return the settings of a run that goes on: its weights are those of its checkpoint."""
    return replace(config, model=replace(config.model, start=""))


def refuse_other_teacher(task: PretrainingTask, run: Path) -> None:
    """Raise ``ValueError`` unless the teacher is the one that a run which goes on has learnt from.

    Its checkpoints hold the teacher, and would put it in the place of another.
    """
    if task.teacher is None:
        return
    before = read_weights(find_checkpoint(run)[0])
    for name, weight in task.teacher.state_dict(prefix="teacher.").items():
        if name in before and not torch.equal(before[name], weight.to(before[name].dtype)):
            raise ValueError(
                "the run was started with another teacher; resume with its objective.teacher and "
                "model.text, as they were then"
            )


def costliest(task: PretrainingTask) -> PretrainingTask:
    """Return a copy of the task in which every objective has begun."""
    task = copy.deepcopy(task)
    task.begin(max(task.objective.mlm_start, task.objective.itm_start))
    return task


def with_steps(config: PretrainConfig, samples: int) -> PretrainConfig:
    """Return the config with ``epochs`` turned into steps; ``samples`` is 0 if unknown."""
    if not config.epochs:
        return config
    if not samples:
        raise ValueError("--epochs needs data of a known size; set --optimization.steps instead")
    steps = config.optimization
    batch = steps.samples_at_once * steps.accumulate * int(os.environ.get("WORLD_SIZE", "1"))
    count = max(1, math.ceil(config.epochs * samples / batch))
    return replace(config, optimization=replace(steps, steps=count))


def phases_of(objective: ObjectiveConfig) -> list[Phase]:
    """Return when each objective begins, and the relative cost of a step from then on.

    From the demo on two threads: 1,430 samples/s with contrast alone, 770 with masked words, 420
    with matching as well (docs/development/design-log.md).
    """
    phases = [Phase(start=0, name="contrast", cost=1.0)]
    if objective.mlm_start < objective.itm_start:
        phases.append(Phase(start=objective.mlm_start, name="masked words", cost=1430 / 770))
    phases.append(Phase(start=objective.itm_start, name="matching", cost=1430 / 420))
    return [p for p, after in zip(phases, [*phases[1:], None], strict=True) if not _hides(after, p)]


def _hides(after: Phase | None, phase: Phase) -> bool:
    """Whether a phase has no step of its own before the one after it."""
    return after is not None and after.start == phase.start


def with_its_word_head(config: PretrainConfig) -> PretrainConfig:
    """Return the settings with the kind of word head that the resumed run has weights for.

    Runs older than this setting have a separate word head.
    """
    before = replace(config, model=replace(config.model, word_head="separate"))
    saved = load_yaml(Path(config.run.out) / CONFIG, PretrainConfig, before)
    return replace(config, model=replace(config.model, word_head=saved.model.word_head))


def example_pictures(
    task: PretrainingTask, dataset: PairDataset, collator: PairCollator
) -> dict[str, UInt8[np.ndarray, "3 H W"]]:
    """Masked words and generated negatives of a few held-out pairs, drawn for TensorBoard."""
    # Only here: drawing takes matplotlib, and the report imports this module.
    from vilta.report.caption_examples import caption_examples
    from vilta.report.pictures import draw_masked_words, draw_negatives

    examples = caption_examples(task, dataset, collator, PICTURED)
    drawn = {"masked_words": draw_masked_words(examples)}
    if examples.rewritten:
        drawn["negatives"] = draw_negatives(examples)
    opened = {name: Image.open(io.BytesIO(png)).convert("RGB") for name, png in drawn.items()}
    return {name: np.asarray(picture).transpose(2, 0, 1) for name, picture in opened.items()}
