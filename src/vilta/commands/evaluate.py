"""`vilta evaluate RUN --data DATA`: measures a run on held-out data, on its own task or another."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from vilta.apps.released import load_released
from vilta.apps.run_calibration import calibrate_release
from vilta.config import DataConfig
from vilta.config.finetune import TaskSettings
from vilta.config.ranges import check_config
from vilta.config.tools import EvaluateConfig
from vilta.data.examples import Examples, PairItems
from vilta.data.loading import evaluation_loader
from vilta.data.samples import ImageMaker, PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.retrieval import trained_ranking
from vilta.finished_run import (
    PRETRAINING,
    blanks_told,
    load_run,
    load_task,
    model_folder,
    read_run,
    released_class,
    result_path,
    same_place,
    say_missing_teacher,
    task_of,
)
from vilta.json_text import json_object, without_nan
from vilta.model.modeling import WithMatching
from vilta.report.metrics import metric_tables
from vilta.report.model_card import update_card
from vilta.report.record import EVALUATIONS
from vilta.screen import (
    changing_progress,
    command,
    counted,
    notes,
    progress,
    results,
    say_next,
    shown,
    watched,
)
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.held_out import role_in_pretraining, role_of
from vilta.tasks.names import is_task
from vilta.tasks.pretraining_evaluation import evaluate_pretraining
from vilta.tasks.registry import find_task
from vilta.training.folder import MODEL, replace_text, require_writable
from vilta.training.precision import autocast, choose_device, choose_dtype, keep_for_next_step


def run(run_folder: str, config: EvaluateConfig) -> dict[str, Any]:
    """Measure a run on ``config.data``: print tables, write JSON, and return what is written.

    The task is ``config.task``, or the one that the run was trained for. Raises ``ValueError`` in
    one line for anything the user can fix.
    """
    check_config(config)
    refuse_old_spelling(run_folder, config)
    name = config.task or task_of(run_folder)
    measure = evaluate_run if name == PRETRAINING else evaluate_task
    keep_for_next_step()
    return measure(name, run_folder, config)


def refuse_old_spelling(run_folder: str, config: EvaluateConfig) -> None:
    """Raise an error that shows the current syntax for a call in the old one."""
    if config.start or (is_task(run_folder) and not Path(run_folder).exists()):
        start = config.start or "RUN"
        now = ["evaluate", start, "--task", run_folder, "--data", config.data or "DATA"]
        raise ValueError(f"the run comes first; use: {command(*now)}")


def evaluate_run(name: str, run_folder: str, config: EvaluateConfig) -> dict[str, Any]:
    """Measure a pre-training run: retrieval, masked words, matching, and more on scenes."""
    refuse_task_flags(run_folder, config)
    out = Path(config.out or result_path(run_folder, "evaluation", config.data))
    require_writable(out)
    device = choose_device(config.device)
    task, trained, teacher = load_run(run_folder)
    task.to(device).eval()
    data = replace(trained.data, workers=config.workers)
    dataset = PairDataset(
        load_pairs(config.data, strict=data.strict), data, config.seed, False, config.data
    )
    loader = evaluation_loader(
        dataset,
        task.collator(data.max_text_tokens, config.seed),
        batch_size=config.batch_size,
        workers=config.workers,
    )
    dtype, reason = choose_dtype(config.precision, device, task)
    role = role_in_pretraining(PairItems(dataset.table, config.data), trained)
    notes.print(
        f"evaluating {run_folder}/model on {counted(len(dataset), 'image')} ({role}), {device} in "
        f"{reason}"
    )
    say_missing_teacher(teacher)
    if config.calibrate:
        place = Path(run_folder) / MODEL
        notes.print(calibrate_release(task.model, task.tokenizer, loader, place, config.data))
    with changing_progress() as tell, autocast(device, dtype):
        metrics = evaluate_pretraining(
            task,
            loader,
            dataset.table,
            top_k=config.top_k,
            full=config.full,
            seed=config.seed,
            progress=tell,
        )
    for title, table in metric_tables(metrics, len(dataset)).items():
        drawn = Table(title, *table.head[1:])
        for row in table.rows:
            drawn.add_row(*row)
        results.print(drawn)
    if dataset.blanks:
        notes.print(blanks_told(dataset.blanks, len(dataset)))
    every = config.full or trained_ranking(trained.objective) == "matching"
    result = {
        "run": run_folder,
        "data": config.data,
        "images": len(dataset),
        "role": role,
        "blank_images": dataset.blanks,
        "candidates": "all" if every else config.top_k,
        "precision": reason,
        "seed": config.seed,
        "teacher": teacher,
        "metrics": metrics,
    }
    write_result(out, result)
    beside = out.resolve().parent == Path(run_folder).resolve()
    if beside and out.match(EVALUATIONS):  # the report draws no other
        say_next(command("report", run_folder))
    return result


def evaluate_task(name: str, run_folder: str, config: EvaluateConfig) -> dict[str, Any]:
    """Measure a downstream task by its official rules, and write its submission file if asked."""
    device = choose_device(config.device)
    kind = find_task(name)
    if config.submission and kind.submission is FinetuningTask.submission:
        raise ValueError(f"{name} has no submission format; leave --submission out")
    trained = read_run(run_folder)
    require_head(kind, name, run_folder)
    own = trained is not None and trained.task == name
    settings = trained.settings.held_out() if trained and own else kind.settings_class()
    settings = with_flags(name, settings, config)
    with progress(f"reading {shown(config.data)}"):
        items = kind.read(config.data, config.images, settings)
    if not config.submission:
        kind.require_answers(items)
    with progress("comparing with what the run was trained on"):
        role = role_of(items, trained, config, run_folder)
    out = Path(config.out or result_path(run_folder, name, config.data))
    require_writable(out)
    if config.submission:
        require_writable(config.submission)
    task = load_task(kind, run_folder, settings, items)
    task.to(device).eval()
    loader = task_loader(task, items, config, blind=bool(trained and trained.data.blind))
    dtype, precision = choose_dtype(config.precision, device, task.model)
    notes.print(
        f"evaluating {run_folder} on {counted(len(items), 'item')} of {items.name} ({role}), "
        f"{device} in {precision}"
    )
    if config.calibrate:
        if not (isinstance(task.model, WithMatching) and isinstance(items, PairItems)):
            raise ValueError(f"--calibrate needs image-text pairs, not the items of {name}")
        place = model_folder(run_folder)
        # As it was trained: a pre-trained one has a threshold for proofreading too.
        whole = load_released(run_folder).model.to(device).eval()
        notes.print(calibrate_release(whole, task.tokenizer, loader, place, config.data))
    lacking = kind.unanswered(items)
    with autocast(device, dtype):
        predictions = task.predict(watched("evaluating", loader))
        metrics = {} if lacking else task.evaluate(predictions, items)
    if config.submission:
        replace_text(Path(config.submission), task.submission(predictions, items))
        notes.print(f"wrote {config.submission}")
    if lacking:
        notes.print(f"no metrics: {len(lacking):,} of {len(items):,} items have no answer")
        return {
            "task": name,
            "run": run_folder,
            "data": config.data,
            "submission": config.submission,
        }
    table = Table(name, "", title_justify="left")
    for figure, value in metrics.items():
        table.add_row(figure.replace("_", " "), f"{value:.2f}")
    results.print(table)
    if remark := kind.remark(items):
        notes.print(f"note: {remark}")
    before = earlier_evaluations(out, run_folder, config)
    dataset = loader.dataset
    blanks = dataset.blanks if isinstance(dataset, ImageMaker) else 0
    if blanks:
        notes.print(blanks_told(blanks, len(items)))
    result = {
        "task": name,
        "run": run_folder,
        "data": config.data,
        "items": len(items),
        "blank_items": blanks,
        "role": role,
        "precision": precision,
        "evaluations": [*before, datetime.now(UTC).date().isoformat()],
        "metrics": metrics,
    }
    write_result(out, result)
    if role.startswith("test") and before:
        notes.print(
            f"note: this is evaluation {len(before) + 1} of the run on these test data; choices "
            "made after the first are choices made on the test set"
        )
    name, folder = kind.model_class.__name__, str(model_folder(run_folder))
    notes.print(f"in Python: from vilta import {name}; model = {name}.from_pretrained({folder!r})")
    return result


def refuse_task_flags(run_folder: str, config: EvaluateConfig) -> None:
    """Refuse what the measures of pre-training would pass over."""
    for flag in ("images", "submission", "folds"):
        if getattr(config, flag):
            raise ValueError(
                f"{run_folder} is measured as pre-training, without --{flag}; name a --task, or "
                f"leave --{flag} out"
            )


def require_head(kind: type[FinetuningTask], name: str, run_folder: str) -> None:
    """Refuse a run whose head is not the one that the task answers with."""
    if not kind.needs_head:
        return
    trained, found = read_run(run_folder), released_class(run_folder)
    if trained.task == name if trained else found == kind.model_class.__name__:
        return
    has = f"was fine-tuned for {trained.task}" if trained else f"holds a {found}"
    raise ValueError(
        f"{run_folder} {has}; for this task run {command('finetune', name, '--from', run_folder)}"
    )


def with_flags(name: str, settings: TaskSettings, config: EvaluateConfig) -> TaskSettings:
    """Return a task's settings, overridden by the flags of this command that are also settings."""
    flags: dict[str, Any] = {"top_k": config.top_k, "full": config.full}
    known = {field.name for field in fields(settings)}
    if config.folds:
        if "folds" not in known:
            raise ValueError(f"{name} is not averaged over parts; leave --folds out")
        flags["folds"] = config.folds
    return replace(settings, **{key: flag for key, flag in flags.items() if key in known})


def earlier_evaluations(out: Path, run_folder: str, config: EvaluateConfig) -> list[str]:
    """Return the dates of earlier evaluations of this run on the same data."""
    earlier = json_object(out)
    now = {"data": config.data, "run": run_folder}
    same = [same_place(earlier.get(k, ""), now[k], Path(run_folder)) for k in now]
    return earlier.get("evaluations", []) if all(same) else []


def task_loader(
    task: FinetuningTask, items: Examples | PairItems, config: EvaluateConfig, blind: bool
) -> Any:
    """Return a loader of the items in order, prepared for the model."""
    size, tokens = task.model.config.image_size, task.model.config.max_text_tokens
    data = DataConfig(image_size=size, max_text_tokens=tokens)
    return evaluation_loader(
        task.dataset(items, data, config.seed, train=False, blind=blind),
        task.collator(tokens),
        batch_size=config.batch_size,
        workers=config.workers,
    )


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write the metrics and their conditions as JSON, and update the run's model card."""
    replace_text(out, json.dumps(without_nan(result), indent=2) + "\n")
    notes.print(f"wrote {out}")
    try:
        update_card(result["run"])
    except OSError as error:  # a run of somebody else can be measured all the same
        notes.print(f"note: the run's model card was not updated ({error.strerror or error})")
