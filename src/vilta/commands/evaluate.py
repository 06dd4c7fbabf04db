"""`vilta evaluate RUN --data DATA`: what a pre-trained model can do without fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vilta.apps.run_calibration import calibrate
from vilta.commands import evaluate_task
from vilta.config.tools import EvaluateConfig
from vilta.data.loading import evaluation_loader
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.evaluation.retrieval import STAGES, trained_stages
from vilta.finished_run import blanks_told, load_run, result_path, say_missing_teacher
from vilta.report.model_card import update_card
from vilta.tasks.finetuning import TASKS
from vilta.tasks.pretraining_evaluation import evaluate_pretraining
from vilta.training.folder import MODEL, replace_text
from vilta.training.precision import autocast, choose_device, choose_dtype, keep_freed_memory


def run(run_folder: str, config: EvaluateConfig) -> None:
    """Evaluate ``run_folder/model`` on ``config.data``; a table on screen, JSON on disk.

    The name of a task in place of a folder evaluates ``config.start`` on that task.

    Raises ``ValueError`` in one line for anything the user can mend.
    """
    is_task = run_folder in TASKS or ":" in run_folder
    if config.start or (is_task and not Path(run_folder).exists()):
        return evaluate_task.run(run_folder, config)
    console = Console(soft_wrap=True)
    device = choose_device(config.device)
    task, trained, teacher = load_run(run_folder)
    keep_freed_memory()
    task.to(device).eval()
    data = replace(trained.data, workers=config.workers)
    pairs = load_pairs(config.data, strict=data.strict)
    dataset = PairDataset(pairs, data, config.seed, False, config.data)
    loader = evaluation_loader(
        dataset,
        task.collator(data.max_text_tokens, config.seed),
        batch_size=config.batch_size,
        workers=config.workers,
    )
    dtype, reason = choose_dtype(config.precision, device, task.model)
    console.print(f"evaluating {run_folder}/model on {len(dataset):,} images, {device} in {reason}")
    say_missing_teacher(console, teacher)
    if config.calibrate:
        pixels = (batch.pixel_values for batch in loader)
        captions = dataset.table["captions"][:]
        console.print(calibrate(task.model, task.tokenizer, pixels, captions, config.data))
        task.model.config.save_pretrained(Path(run_folder) / MODEL)
    with Progress(console=console, transient=True) as bar, autocast(device, dtype):
        line = bar.add_task("", total=1)
        figures = evaluate_pretraining(
            task,
            loader,
            top_k=config.top_k,
            full=config.full,
            seed=config.seed,
            progress=lambda what, done, total: bar.update(
                line, description=what, completed=done, total=total
            ),
        )
    for table in tables(figures):
        console.print(table)
    if dataset.blanks:
        console.print(blanks_told(dataset.blanks, len(dataset)))
    stages = trained_stages(trained.objective)
    out = Path(config.out or result_path(run_folder, "evaluation", config.data))
    result = {
        "run": run_folder,
        "data": config.data,
        "images": len(dataset),
        "blank_images": dataset.blanks,
        "candidates": "all" if config.full or stages == ("matching",) else config.top_k,
        "precision": reason,
        "seed": config.seed,
        "teacher": teacher,
        "figures": figures,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(result, indent=2) + "\n")
    update_card(run_folder)
    console.print(f"wrote {out}\nnext: vilta report {run_folder}")


def tables(figures: dict[str, Any]) -> list[Table]:
    """Lay the figures out for the screen: retrieval, masked words, matching, and on scenes more."""
    retrieval = Table("retrieval", "R@1", "R@5", "R@10", title="", title_justify="left")
    for stage in STAGES:  # a run that trained but one has no others
        for way, values in figures["retrieval"].get(stage, {}).items():
            cells = [f"{values[f'R@{k}']:.1f}" for k in (1, 5, 10)]
            retrieval.add_row(f"{way.replace('_', ' ')}, {stage}", *cells)
    words = Table("masked words", "top-1", "top-5")
    for view, values in figures["masked_words"].items():
        words.add_row(view.replace("_", " "), f"{values['top1']:.1f}", f"{values['top5']:.1f}")
    matching = Table("matching", "accuracy")
    for name, value in figures["validation"].items():
        if name.startswith("itm/accuracy_"):
            matching.add_row(f"{name.removeprefix('itm/accuracy_')} pairs", f"{value:.1f}")
    for name, label in {"ece_raw": "raw", "ece": "calibrated"}.items():
        if "calibration" in figures:
            error = f"{figures['calibration'][name]:.1f}"
            matching.add_row(f"calibration error, {label}", error)
    found = [retrieval, words, matching]
    if "scenes" in figures:
        scenes = Table("scenes (oracle)", "%")
        for name, value in figures["scenes"].items():
            scenes.add_row(name.replace("_", " "), f"{value:.1f}")
        negatives = Table("written negatives", "captions with one", "still true", "no sentence")
        for name, shares in figures["negatives"].items():
            cells = [f"{shares[k]:.1f}" for k in ("written", "still_true", "no_sentence")]
            negatives.add_row(f"filter {name}", *cells)
        found += [scenes, negatives]
    return found
