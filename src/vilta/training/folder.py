"""The folder of a run: what is in it, who may write into it, and how things in it are replaced."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vilta.config import RunConfig
from vilta.config.yaml_file import read_mapping, save_yaml, to_dict
from vilta.json_text import json_object, parse_json, with_nan
from vilta.screen import command

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
EVENTS = "tensorboard"
CHECKPOINTS = "checkpoints"
MODEL = "model"
REPORT = "report"
SUMMARY = "metrics.json"
LOCK = ".lock"
_TEMPORARY = ".tmp-"


def model_folder(start: str) -> Path:
    """Return the folder of a run's released model, or ``start`` itself if it is one.

    Raises ``ValueError`` in one line if there is none; of a run, with the command that finishes it.
    """
    folder = Path(start)
    if not folder.exists():
        raise ValueError(f"no such folder: {start}; vilta pretrain makes a run")
    for place in (folder / MODEL, folder):
        if (place / "config.json").is_file():
            return place
    if (folder / CONFIG).is_file():
        goes_on = command(_verb_of(folder), f"{start}/{CONFIG}", "--run.resume")
        raise ValueError(f"{start} has no released model yet; finish it with {goes_on}")
    raise ValueError(f"{start} is neither a run nor a released model (config.json is missing)")


def _verb_of(folder: Path) -> str:
    """Return the command that a run was started with, by the settings that only it has."""
    settings = read_mapping(folder / CONFIG)
    if "task" in settings:
        return "finetune"
    return "pretrain-text" if "mask_rate" in settings else "pretrain"


def check_run_folder(run: RunConfig) -> bool:
    """Refuse, before any work is done, a folder that this run may not write into.

    Returns whether the run goes on from a checkpoint. Changes nothing, so that every process may
    call it. Raises ``ValueError`` in one line.
    """
    if not run.out:
        raise ValueError("--run.out must name the folder that the run writes into")
    if run.resume and run.overwrite:
        raise ValueError("--run.resume and --run.overwrite exclude each other")
    folder = Path(run.out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --run.out must name a folder")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written into" if there.is_dir() else "is a file"
        raise ValueError(f"--run.out is {folder}, but {there} {what}; choose another --run.out")
    saved = any((folder / CHECKPOINTS).glob("step-*"))
    if run.resume and saved:
        return True
    if run.resume is True:
        raise ValueError(
            f"{folder} holds no checkpoint to resume; --run.resume auto starts the run then"
        )
    is_run = saved or (folder / CONFIG).is_file()
    if not is_run and not _is_empty(folder):
        raise ValueError(f"{folder} is not empty and is not a run folder; choose another --run.out")
    if run.overwrite:
        return False
    if saved:
        raise ValueError(
            f"{folder} holds a run; --run.resume goes on with it, --run.overwrite replaces it"
        )
    if is_run and _results(folder):
        raise ValueError(
            f"{folder} holds what a run has left, but no checkpoint; --run.overwrite replaces it"
        )
    return False


def changed_settings(run: RunConfig, config: Any) -> list[str]:
    """Say which settings are not those that the run was last started with: ``name: old -> new``."""
    try:
        old = _flat(read_mapping(Path(run.out) / CONFIG))
    except (ValueError, OSError):  # it is written anew
        return []
    new = _flat(to_dict(_as_kept(config)))
    both = [name for name in new if name in old]  # another version may have had others
    return [f"{name}: {old[name]} -> {new[name]}" for name in both if old[name] != new[name]]


def _as_kept(config: Any) -> Any:
    """Return a config without what is allowed for one start alone."""
    asked_anew = replace(config.run, resume=False, overwrite=False, accept_other_data=False)
    return replace(config, run=asked_anew)


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{above}{name}.") if inner else {above + name: value}
    return flat


def claim_run_folder(run: RunConfig, config: Any) -> None:
    """Make the folder ready and write ``config`` into it; one process calls this.

    ``config`` is a dataclass with the ``run``. What was allowed for this start alone is not
    written, so that whoever goes on by config.yaml is asked again.
    A start deletes what an earlier one wrote and what was measured of it, and leaves any other file
    alone. It may be killed at any moment: what is left is a run that goes on, or that starts again.
    """
    goes_on = check_run_folder(run)
    folder = Path(run.out)
    for place in (folder, folder / CHECKPOINTS):  # what a killed run left half written
        for path in place.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not goes_on:
        # Results first, checkpoints after them: without checkpoints and results it is a new start.
        for path in (*_results(folder), folder / CHECKPOINTS, folder / EVENTS, folder / METRICS):
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            else:
                path.unlink(missing_ok=True)
    save_yaml(_as_kept(config), folder / CONFIG)
    (folder / CHECKPOINTS).mkdir(exist_ok=True)


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target``, whole and flushed, when the block ends well.

    When the block fails, nothing is left of it and an older ``target`` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{_TEMPORARY}{target.name}"
    retired = target.parent / f"{_TEMPORARY}replaced-{target.name}"
    if retired.exists() and not target.exists():  # a process was killed in between
        os.rename(retired, target)
    for left in (temporary, retired):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            _flush(path)
        _flush(temporary)
        if target.exists():
            os.rename(target, retired)
        os.rename(temporary, target)
        _flush(target.parent)
    finally:
        if retired.exists() and not target.exists():
            os.rename(retired, target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def remove_folder(target: Path) -> None:
    """Delete a folder so that it is never seen half deleted under its name."""
    retired = target.parent / f"{_TEMPORARY}old-{target.name}"
    os.rename(target, retired)
    shutil.rmtree(retired)


def replace_text(path: Path, text: str) -> None:
    """Write a small text file atomically and flush it to the disk."""
    replace_bytes(path, text.encode("utf-8"))


def require_writable(path: str | Path) -> None:
    """Raise what writing this file would end with, before the work whose result it is to hold.

    Its folder is made if it is not there.
    """
    place = Path(path)
    if place.is_dir():
        raise ValueError(f"{place} is a folder; name a file to write")
    require_writable_folder(place)


def require_writable_folder(place: Path) -> None:
    """The same for a folder; it comes whole from beside its place, as a file does."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=_TEMPORARY, dir=place.parent):
            pass
    except OSError as error:  # under the name that the user knows
        why = f"{error.strerror}, choose another place to write"
        raise OSError(error.errno, why, str(place)) from None


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically and flush it to the disk; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY}{path.name}"
    try:
        temporary.write_bytes(content)
        _flush(temporary)
    except OSError as error:  # a full disk, which the system tells without a name
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.replace(temporary, path)
    _flush(path.parent)


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a torn line, as a killed run leaves it, is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = parse_json(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "step" in line:
                lines.append(with_nan(line))
    return lines


def _is_empty(folder: Path) -> bool:
    """Whether a folder is missing, or holds nothing but what a killed start has left."""
    if not folder.is_dir():
        return True
    return all(p.name == LOCK or p.name.startswith(_TEMPORARY) for p in folder.iterdir())


def _results(folder: Path) -> list[Path]:
    """Return the outputs of a run, and its measurements."""
    named = (folder / name for name in (SUMMARY, REPORT, MODEL))
    return [*_evaluations(folder), *(path for path in named if path.exists())]


OLD = "figures"
"""The key of the metrics in files of older versions."""


def _evaluations(folder: Path) -> list[Path]:
    """Return the files with metrics of a model that ``vilta evaluate`` wrote, whatever their name.

    They are known by what they hold: a report must not show those of a run that is gone.
    """
    found = ((path, _keys(path)) for path in folder.glob("*.json"))
    return [path for path, keys in found if {"run", "data"} <= keys and keys & {"metrics", OLD}]


def _keys(path: Path) -> set[str]:
    return set(json_object(path))


def _flush(path: Path) -> None:
    """Wait until a file or, where the system can, a folder's entries are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
