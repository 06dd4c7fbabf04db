"""What a run leaves behind and how it is loaded: settings, model, teacher, result files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.finetune import FinetuneConfig, TaskSettings
from vilta.config.yaml_file import load_yaml, read_mapping
from vilta.data.examples import Examples, PairItems
from vilta.data.sources import joined_sources
from vilta.json_text import json_object
from vilta.model import ViltaForPreTraining
from vilta.model.configuration import read_config
from vilta.model.encoder_checks import check_text_encoder
from vilta.model.encoders import load_text_encoder
from vilta.model.language_model import load_tokenizer
from vilta.objectives.vocabulary import require_same_words
from vilta.screen import command, notes
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.held_out import whole_path
from vilta.tasks.names import TASKS
from vilta.tasks.pretraining import PretrainingTask
from vilta.tasks.registry import load_finetune_config
from vilta.training.folder import CONFIG, MODEL, model_folder

PRETRAINING = "pretraining"
"""Name of the task that `vilta pretrain` trains."""


def task_of(start: str) -> str:
    """Return the task that a run, or a released model, was trained for.

    Raises ``ValueError`` in one line if the folder does not record it.
    """
    if trained := read_run(start):
        return trained.task
    if (Path(start) / CONFIG).is_file():
        return PRETRAINING
    raise ValueError(
        f"{start} has no config.yaml that names its task; add --task, one of {', '.join(TASKS)}"
    )


def read_run(folder: str) -> FinetuneConfig | None:
    """Return the settings of a fine-tuned run, or of its ``model`` folder; else None.

    Raises ``ValueError`` in one line if its settings cannot be read, or its task not be found.
    """
    path = Path(folder) / CONFIG
    if not path.is_file() and Path(folder).resolve().name == MODEL:
        path = Path(folder).resolve().parent / CONFIG
    if not path.is_file():
        return None
    if not read_mapping(path).get("task"):  # a pre-training run
        return None
    config = load_finetune_config(path)
    data, run_folder = config.data, path.parent
    places = {name: getattr(data, name) for name in ("train", "val", "images")}
    places = {name: recorded_path(place, run_folder) for name, place in places.items()}
    return replace(config, data=replace(data, **places))


def released_class(start: str) -> str:
    """Return the name of the class whose weights a run has released."""
    return (read_config(model_folder(start)).architectures or ["model"])[0]


def load_run(run_folder: str) -> tuple[PretrainingTask, PretrainConfig, str]:
    """Load the released model of a run with the settings that its training ended with.

    The text describes the teacher: ``found``, ``none needed``, or ``not found`` with the
    reason and what is different without it.

    Raises ``ValueError`` in one line if the folder is not a finished pre-training run.
    """
    folder = Path(run_folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{run_folder} is not a run: it has no config.yaml")
    if read_run(run_folder) is not None:
        raise ValueError(
            f"{run_folder} was fine-tuned for a task; use: "
            f"{command('evaluate', run_folder, '--data', 'DATA')}"
        )
    place = model_folder(run_folder)
    read_config(place)  # tells of a text encoder, whose settings are others
    trained = _located(load_yaml(folder / CONFIG, PretrainConfig), folder)
    model = ViltaForPreTraining.from_pretrained(place)
    tokenizer = load_tokenizer(str(place))
    reasons = []
    try:
        teacher = load_teacher(trained, tokenizer)
    except ValueError as error:  # the teacher may be gone; a finished model does not need it
        teacher, reasons = None, [" ".join(str(error).split())]
    if "momentum" in (trained.objective.soft_labels, trained.objective.itc_targets):
        reasons.append("the momentum copy is not part of the released model")
    objective = _without_momentum(trained.objective)
    if teacher is None:
        objective = _without_teacher(objective)
    found = "none needed" if teacher is None else "found"
    if reasons:
        found = f"not found: {'; '.join(reasons)}; {_difference(trained.objective, objective)}"
    if model.config.ranking == "contrastive":  # also where matching had still to begin
        objective = replace(objective, itm_weight=0.0)
    task = PretrainingTask(model, tokenizer, objective, teacher)
    task.begin(trained.optimization.steps)  # the weight of soft labels may be ramped
    return task, trained, found


def recorded_path(path: str, run_folder: Path) -> str:
    """Return where a path of a run's record lies, seen from here.

    A record holds paths as they were given, relative to the folder that training was started in.
    That is mostly one of those that the run lies in; what the current folder calls by the same name
    may be another thing. Several sources may be joined by ``+``.
    """
    return "+".join(found for _, found in recorded_sources(path, run_folder))


def recorded_sources(path: str, run_folder: Path) -> list[tuple[str, str]]:
    """Return each of the sources that ``+`` joins, as recorded and where it lies from here."""
    parents = run_folder.resolve().parents
    parts = joined_sources(path, lambda place: bool(_near(place, parents)))
    return [(part, _recorded_path(part, parents)) for part in parts]


def _recorded_path(path: str, parents: Sequence[Path]) -> str:
    place, mark, query = path.partition("?")  # a source may name a split: data.json?split=val
    if set(Path(place).parts) <= {".."}:  # nothing, `.` or `..`: it is in every folder
        return path
    near = _near(place, parents)
    if not near or near[0].resolve() == Path(place).resolve():
        return path
    return f"{near[0]}{mark}{query}"


def _near(place: str, parents: Sequence[Path]) -> list[Path]:
    # os.path.exists, unlike Path.exists, is false for what cannot be a path, such as a long text.
    return [parent / place for parent in parents if os.path.exists(parent / place)]


def same_place(first: Any, second: str, run_folder: Path) -> bool:
    """Whether two names, given in the same folder or in others, are of the same data or run.

    The first may be read from a file, and be something other than a name.
    """
    if not isinstance(first, str) or "\0" in first:
        return False
    return len({whole_path(recorded_path(path, run_folder)) for path in (first, second)}) == 1


def _located(config: PretrainConfig, run_folder: Path) -> PretrainConfig:
    """Return the settings with the paths of data and teacher as they are seen from here."""
    objective, model, data = config.objective, config.model, config.data
    return replace(
        config,
        objective=replace(objective, teacher=recorded_path(objective.teacher, run_folder)),
        model=replace(model, text=recorded_path(model.text, run_folder)),
        data=replace(
            data,
            train=recorded_path(data.train, run_folder),
            val=recorded_path(data.val, run_folder),
        ),
    )


def say_missing_teacher(teacher: str) -> None:
    """Print ``load_run``'s one-line message about a missing teacher."""
    if teacher.startswith("not found"):
        notes.print(f"teacher {teacher}")


def load_task(
    kind: type[FinetuningTask], start: str, settings: TaskSettings, items: Examples | PairItems
) -> FinetuningTask:
    """Load a run's released model for a task."""
    folder = model_folder(start)
    model = kind.model_class.from_pretrained(folder)
    return kind(model, load_tokenizer(str(folder)), settings, items)


def load_teacher(
    config: PretrainConfig, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | None:
    """Load the frozen language model if an objective asks for one; it must share the words."""
    objective = config.objective
    if not objective.needs_teacher():
        return None
    if objective.teacher:
        require_same_words(tokenizer, load_tokenizer(objective.teacher))
    teacher = load_text_encoder(objective.teacher or config.model.text)
    check_text_encoder(teacher, config.data.max_text_tokens)
    return teacher


def result_path(folder: str, name: str, data: str) -> Path:
    """Return the file for metrics on ``data``: no other data of the same run are kept in it.

    ``runs/mine/evaluation-val.json`` for ``data/val``; where that holds the metrics on another
    folder called ``val``, the name is the whole path.
    """
    place, _, query = data.partition("?")
    last = Path(place).stem + (f"-{query}" if query else "")
    short, whole = (Path(folder) / f"{_plain(name)}-{_plain(text)}.json" for text in (last, data))
    return whole if _holds_other(short, data, Path(folder)) else short


def blanks_told(blanks: int, total: int) -> str:
    """Say that metrics count items that could not be shown."""
    return (
        f"note: {blanks:,} of {total:,} items cannot be read and count with a blank image; "
        "warnings above name them"
    )


def _holds_other(path: Path, data: str, run_folder: Path) -> bool:
    """Whether a file holds an evaluation on other data."""
    return not same_place(json_object(path).get("data", data), data, run_folder)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text)


def _difference(then: ObjectiveConfig, now: ObjectiveConfig) -> str:
    """Name what is measured in another way than in training, for want of a teacher."""
    parts = []
    if then.soft_labels != now.soft_labels:
        parts.append("validation/mlm is without soft labels")
    if then.itc_targets != now.itc_targets:
        parts.append("validation/itc is of itc_targets pairs instead of momentum")
    if then.negatives != now.negatives:
        parts.append("negatives are filtered by grounded instead of soft_label")
    elif then.negatives == "grounded" and then.teacher_filter_ratio > now.teacher_filter_ratio:
        parts.append("the filter of negatives goes without the teacher")
    if then.negatives != "off" and then.negative_generator != now.negative_generator:
        parts.append("the current text encoder generates negatives instead of the frozen one")
    return ", ".join(parts)


def _without_momentum(objective: ObjectiveConfig) -> ObjectiveConfig:
    labels = "none" if objective.soft_labels == "momentum" else objective.soft_labels
    return replace(objective, soft_labels=labels, itc_targets="pairs", queue_size=0)


def _without_teacher(objective: ObjectiveConfig) -> ObjectiveConfig:
    return replace(
        objective,
        soft_labels="none",
        negatives="grounded" if objective.negatives == "soft_label" else objective.negatives,
        teacher_filter_ratio=0.0,
        negative_generator="current",
    )
