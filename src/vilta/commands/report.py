"""`vilta report RUN`: one page with the curves, metrics and examples of a pre-training run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vilta.config.ranges import check_config
from vilta.config.tools import ReportConfig
from vilta.finished_run import load_run, recorded_path, say_missing_teacher
from vilta.json_text import without_nan
from vilta.metrics.names import flat
from vilta.report.curves import DARK, draw_curves
from vilta.report.epochs import by_epoch, epoch_table
from vilta.report.examples import collect_examples
from vilta.report.html import require_html
from vilta.report.metrics import key_tiles, metric_tables
from vilta.report.page import render_page
from vilta.report.pictures import draw_masked_words, draw_negatives, draw_retrieval
from vilta.report.record import Record, all_metrics, read_record, training_summary
from vilta.report.reliability import reliability_pictures
from vilta.screen import command, notes, say_next, shown
from vilta.training.folder import REPORT, SUMMARY, replace_text, require_writable

__all__ = ["run"]


def run(run_folder: str, config: ReportConfig) -> dict[str, Any]:
    """Write the page with its pictures, and all metrics to ``run_folder/metrics.json``.

    Draws the newest evaluation of the run, and returns the paths of what it wrote.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    if config.out:
        require_html(config.out)
        require_writable(config.out)
    require_writable(Path(run_folder) / SUMMARY)
    task, trained, teacher = load_run(run_folder)
    record = read_record(run_folder)
    evaluation = record.evaluation
    notes.print(f"drawing {record.path}, examples from {evaluation['data']}")
    say_missing_teacher(teacher)
    here = recorded_path(evaluation["data"], Path(run_folder))
    examples = collect_examples(task, trained, {**evaluation, "data": here}, config.examples)
    summary = training_summary(record, sum(p.numel() for p in task.model.parameters()))
    epochs = {f"training/epoch-{n}": found for n, found in by_epoch(record.steps).items()}
    everything = all_metrics(record, summary) | flat(epochs)
    curves = draw_curves(record)
    page = render_page(
        title=f"ViLTA: {Path(run_folder).resolve().name}",
        about=_about(record, summary),
        tiles=key_tiles(record.metrics, record.evaluation["images"], examples.filter_name),
        curves=(curves, draw_curves(record, DARK)),
        reliability=reliability_pictures(record.metrics),
        examples=examples,
        tables={
            **metric_tables(record.metrics, record.evaluation["images"]),
            "Negatives generated in training, in percent by epoch": epoch_table(record.steps),
        },
        everything=everything,
        commands=_commands(run_folder, config, record),
    )
    out = Path(config.out or Path(run_folder) / REPORT / "report.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures = {
        "loss-curves.png": curves,
        "retrieval.png": draw_retrieval(examples),
        "masked-words.png": draw_masked_words(examples),
        "negatives.png": draw_negatives(examples),
    }
    for name, png in pictures.items():
        temporary = out.parent / f".tmp-{name}"
        temporary.write_bytes(png)
        os.replace(temporary, out.parent / name)
    text = json.dumps(without_nan(everything), indent=2)
    replace_text(Path(run_folder) / SUMMARY, text + "\n")
    replace_text(out, page)
    notes.print(f"wrote {out}, {', '.join(pictures)} next to it, and {Path(run_folder) / SUMMARY}")
    notes.print(f"open {shown(out)} in a browser")
    say_next(command("serve", run_folder))
    return {
        "report": str(out),
        "metrics": str(Path(run_folder) / SUMMARY),
        "evaluation": str(record.path),
        "data": evaluation["data"],
    }


def _about(record: Record, summary: dict[str, Any]) -> str:
    """Describe the training and the evaluation in one sentence."""
    words = [f"{summary['parameters'] / 1e6:.1f} M parameters"]
    if "steps" in summary:
        words.append(f"{summary['steps']:,} steps over {summary['samples']:,} samples")
        words.append(f"{summary['minutes']:.1f} minutes of training")
    evaluation = record.evaluation
    measured = f"measured on {evaluation['images']:,} images of {evaluation['data']}"
    return f"{', '.join(words)}; {measured} in {evaluation['precision']}."


def _commands(run_folder: str, config: ReportConfig, record: Record) -> list[str]:
    """Return the commands that reproduce this page, from training on."""
    evaluation = record.evaluation
    data = recorded_path(evaluation["data"], Path(run_folder))
    evaluate = ["evaluate", run_folder, "--data", data]
    if evaluation["candidates"] == "all":
        evaluate.append("--full")
    else:
        evaluate += ["--top-k", str(evaluation["candidates"])]
    evaluate += ["--seed", str(evaluation["seed"])]
    report = ["report", run_folder, "--examples", str(config.examples)]
    if config.out:
        report += ["--out", config.out]
    pretrain = ["pretrain", f"{run_folder}/config.yaml", "--run.overwrite"]
    return [command(*words) for words in (pretrain, evaluate, report)]
