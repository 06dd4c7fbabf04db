"""The tasks by name, and the settings of fine-tuning, whose class depends on the task."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from vilta.config.finetune import FinetuneConfig
from vilta.config.yaml_file import from_dict, read_mapping
from vilta.plugin import import_class
from vilta.spelling import nearest
from vilta.tasks.finetuning import FinetuningTask
from vilta.tasks.names import TASKS

OLD_SETTINGS = frozenset(
    ("min_answers", "premise", "top_k", "full", "folds", "paraphrases", "edit_kinds", "hardness")
)
"""Settings that all tasks shared in one class once; runs of that time have saved them all."""


def find_task(name: str) -> type[FinetuningTask]:
    """Return the task of this name, or the class that ``module:Class`` names.

    Raises ``ValueError`` with the nearest name if there is none.
    """
    place = TASKS.get(name, name)
    if ":" not in place:
        raise ValueError(f"unknown task {name!r}; {nearest(name, TASKS)}")
    found: type[FinetuningTask] = import_class(place, FinetuningTask, "docs/new-task.md")
    return found


def default_config(positional: str) -> FinetuneConfig:
    """Return the defaults of `vilta finetune` for the name of a task or for a YAML file.

    Raises ``ValueError`` in one line for an unknown task or a file that cannot be read.
    """
    if positional.endswith((".yaml", ".yml")):
        return load_finetune_config(positional)
    return FinetuneConfig(task=positional, settings=find_task(positional).settings_class())


def load_finetune_config(path: str | Path) -> FinetuneConfig:
    """Read a YAML file of `vilta finetune`; its ``settings`` are those of its ``task``.

    A file that says ``optimization.steps`` and no ``epochs`` means those steps. Raises
    ``ValueError`` naming the file and what is wrong in it.
    """
    content, base = read_mapping(path), FinetuneConfig()
    if isinstance(name := content.get("task"), str) and name:
        base = FinetuneConfig(settings=find_task(name).settings_class())
    if isinstance(settings := content.get("settings"), dict):
        known = {field.name for field in fields(base.settings)}
        content["settings"] = {
            key: value for key, value in settings.items() if key in known or key not in OLD_SETTINGS
        }
    optimization = content.get("optimization")
    if isinstance(optimization, dict) and "steps" in optimization:
        content.setdefault("epochs", 0.0)
    return from_dict(content, base, path)
