"""`vilta evaluate TASK --from RUN --data DATA`: a task's figures, and its submission file."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vilta.config import DataConfig
from vilta.config.finetune import FinetuneConfig, TaskConfig
from vilta.config.tools import EvaluateConfig
from vilta.data.examples import Examples, PairItems, shared_images
from vilta.data.loading import evaluation_loader
from vilta.data.samples import ImageMaker
from vilta.finished_run import (
    blanks_told,
    load_task,
    model_folder,
    read_run,
    released_class,
    result_path,
)
from vilta.report.model_card import update_card
from vilta.tasks.finetuning import FinetuningTask, find_task
from vilta.training.folder import replace_text
from vilta.training.precision import autocast, choose_device, choose_dtype, keep_freed_memory

CHOSEN = "validation: the checkpoint was chosen on these; not a test figure"
"""The role of data that hold images of the validation set, all or some."""
UNCOMPARED = "test, as far as can be told: the training data cannot be read"
"""The role where images in both could not be looked for."""


def run(name: str, config: EvaluateConfig) -> None:
    """Evaluate a run on a task's items; a table on screen, JSON on disk.

    Raises ``ValueError`` in one line for anything the user can mend.
    """
    console = Console(soft_wrap=True)
    if not config.start:
        raise ValueError(f"--from must name the run, e.g. vilta evaluate {name} --from runs/mine")
    device = choose_device(config.device)
    kind, trained = find_task(name), read_run(config.start)
    found = released_class(config.start)
    fits = trained.task == name if trained else found == kind.model_class.__name__
    if kind.needs_head and not fits:
        has = f"was fine-tuned for {trained.task}" if trained else f"holds a {found}"
        raise ValueError(
            f"{config.start} {has}; for this task run vilta finetune {name} --from {config.start}"
        )
    settings = trained.settings.held_out() if trained else TaskConfig()
    settings = replace(settings, top_k=config.top_k, full=config.full)
    if config.folds:
        settings = replace(settings, folds=config.folds)
    items = kind.read(config.data, config.images, settings)
    if not config.submission:
        kind.require_answers(items)
    role = role_of(items, trained, config)
    out = Path(config.out or result_path(config.start, name, config.data))
    task = load_task(kind, config.start, settings, items)
    task.to(device).eval()
    loader = task_loader(task, items, config, blind=bool(trained and trained.data.blind))
    keep_freed_memory()
    dtype, precision = choose_dtype(config.precision, device, task.model)
    console.print(
        f"evaluating {config.start} on {len(items):,} items of {items.name} ({role}), {device} in "
        f"{precision}"
    )
    with Progress(console=console, transient=True) as bar, autocast(device, dtype):
        watched = Watched(loader, bar)
        if config.submission:
            replace_text(Path(config.submission), task.submission(watched))
            console.print(f"wrote {config.submission}")
        lacking = kind.unanswered(items)
        figures = {} if lacking else task.evaluate(watched)
    if lacking:
        console.print(f"no figures: {len(lacking):,} of {len(items):,} items have no answer")
        return
    table = Table(name, "", title_justify="left")
    for figure, value in figures.items():
        table.add_row(figure.replace("_", " "), f"{value:.2f}")
    console.print(table)
    if remark := kind.remark(items):
        console.print(f"note: {remark}")
    before = earlier_looks(out, config)
    dataset = loader.dataset
    blanks = dataset.blanks if isinstance(dataset, ImageMaker) else 0
    if blanks:
        console.print(blanks_told(blanks, len(items)))
    today = datetime.now(UTC).date().isoformat()
    result = {
        "task": name,
        "run": config.start,
        "data": config.data,
        "items": len(items),
        "blank_items": blanks,
        "role": role,
        "precision": precision,
        "evaluations": [*before, today],
        "figures": figures,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(result, indent=2) + "\n")
    update_card(config.start)
    if role.startswith("test") and before:
        console.print(
            f"note: this is evaluation {len(before) + 1} of the run on these test data; choices "
            "made after the first are choices made on the test set"
        )
    model = f'vilta.{kind.model_class.__name__}.from_pretrained("{model_folder(config.start)}")'
    console.print(f"wrote {out}\nnext, in Python: {model}")


def earlier_looks(out: Path, config: EvaluateConfig) -> list[str]:
    """Return the days on which the file says that this run was measured on these very data."""
    try:
        earlier = json.loads(out.read_text())
    except (OSError, ValueError):
        return []
    same = isinstance(earlier, dict) and earlier.get("data") == config.data
    return earlier.get("evaluations", []) if same and earlier.get("run") == config.start else []


def role_of(
    items: Examples | PairItems,
    trained: FinetuneConfig | None,
    config: EvaluateConfig,
) -> str:
    """Say what the data are to the run: ``zero-shot``, ``validation`` or ``test``.

    Raises ``ValueError`` if the run was trained on images of them, unless that is accepted.
    """
    if trained is None:
        return "zero-shot: the run was not fine-tuned"
    if config.data == trained.data.val:
        return CHOSEN
    data, settings = trained.data, trained.settings
    reader = find_task(trained.task)  # not always the task that is evaluated
    try:
        seen = reader.read(data.train, data.images, settings)
        chosen = reader.read(data.val, data.images, settings.held_out()) if data.val else None
    except ValueError as error:
        return f"{UNCOMPARED} ({error})"
    shared = shared_images(seen, items)
    if shared and not config.accept_trained:
        raise ValueError(
            f"{config.start} was trained on {len(shared)} of these images, such as {shared[0]}; "
            "choose data that it has not seen, or pass --accept-trained"
        )
    if shared:
        return "trained on these images"
    return CHOSEN if chosen is not None and shared_images(chosen, items) else "test"


def task_loader(
    task: FinetuningTask, items: Examples | PairItems, config: EvaluateConfig, blind: bool
) -> Any:
    """Return the items in order, as the model sees them."""
    size, tokens = task.model.config.image_size, task.model.config.max_text_tokens
    data = DataConfig(image_size=size, max_text_tokens=tokens)
    return evaluation_loader(
        task.dataset(items, data, config.seed, train=False, blind=blind),
        task.collator(tokens),
        batch_size=config.batch_size,
        workers=config.workers,
    )


class Watched:
    """A loader that moves a progress bar."""

    def __init__(self, loader: Any, bar: Progress) -> None:
        self.loader, self.bar, self.dataset = loader, bar, loader.dataset

    def __iter__(self) -> Any:
        """Yield the batches."""
        yield from self.bar.track(self.loader, total=len(self.loader), description="evaluating")
