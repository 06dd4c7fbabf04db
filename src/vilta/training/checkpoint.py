"""The state of a training run on disk: written whole or not at all, read strictly.

``checkpoints/step-00000123/`` holds ``model.safetensors``, ``optimizer.pt`` and ``state.json``;
the text files ``last`` and ``best`` name the folder to take. No random state is stored: the loop
derives every random number from the seed and the step.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vilta.training.folder import CHECKPOINTS, remove_folder, replace_text, replaced_folder

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.pt", "state.json"
_LIBRARIES = ("torch", "transformers", "accelerate")


@dataclass(kw_only=True)
class RunState:
    """Where a run stands; everything of it that is neither weights nor optimizer moments."""

    fingerprint: str
    """Of the training data; a run goes on with the same."""
    vocabulary: str
    """Hash of the words and special ids of the tokenizer."""
    seed: int
    global_batch: int
    """Samples of one optimizer step on all devices; with the step it gives the data position."""
    precision: str = ""
    """Format of the last session's matrix products; `precision: auto` goes on with it."""
    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    skipped: int = 0
    """Steps left out because their loss or gradient was not finite."""
    seconds: float = 0.0
    """Time spent in training steps, over all sessions of the run."""
    evaluated: int = -1
    """Step of the last evaluation; -1: none yet."""
    stale: int = 0
    """Evaluations since the best one."""
    best: dict[str, Any] | None = None
    """``step``, ``metric``, ``value`` and all ``figures`` of the best evaluation."""
    window: dict[str, list[float]] = field(default_factory=dict)
    """What the steps since the last line of metrics.jsonl reported."""

    def refuse_other(self, now: RunState, *, accept_other_data: bool) -> None:
        """Raise ``ValueError`` if a run set up as ``now`` cannot go on from this state."""
        if self.vocabulary != now.vocabulary:
            raise ValueError(
                "the checkpoint was trained with another vocabulary; resume with the tokenizer "
                "that the run was started with"
            )
        if self.fingerprint != now.fingerprint and not accept_other_data:
            raise ValueError(
                "the training data are not those that the run was started with; restore them, or "
                "add --run.accept-other-data"
            )
        if (self.seed, self.global_batch) != (now.seed, now.global_batch):
            raise ValueError(
                f"the run was started with seed {self.seed} and {self.global_batch} samples a "
                f"step, not seed {now.seed} and {now.global_batch}; set --run.seed, and "
                "batch size x accumulate x devices, to the same"
            )


def save_checkpoint(
    run: Path,
    task: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    state: RunState,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of ``state.step``, move the pointers, then delete older ones.

    The last ``keep`` and the best stay. When the disk is full or fails, nothing half written is
    left, the earlier checkpoints stay, and a ``ValueError`` says so in one line.
    """
    folder = run / CHECKPOINTS / f"step-{state.step:08d}"
    try:
        with replaced_folder(folder) as temporary:
            weights = {k: v.detach().cpu().contiguous() for k, v in _owned(task)[0].items()}
            save_file(weights, temporary / _WEIGHTS)
            _save_optimizer(optimizer, schedule, temporary / _OPTIMIZER)
            versions = {name: version(name) for name in _LIBRARIES}
            content = json.dumps({**asdict(state), "versions": versions}, indent=1)
            (temporary / _STATE).write_text(content, encoding="utf-8")
        replace_text(folder.parent / "last", folder.name)
        if state.best is not None and state.best["step"] == state.step:
            replace_text(folder.parent / "best", folder.name)
    except (OSError, SafetensorError) as error:
        last = _pointed(run, "last")
        left = f"{last.name} is whole" if last else "there is no earlier one"
        reason = " ".join(str(error).split())
        raise ValueError(
            f"cannot save checkpoint {folder.name} in {folder.parent}: {reason}; {left}. Make room "
            "and go on with --run.resume"
        ) from error
    _prune(run, keep)
    return folder


def find_checkpoint(run: Path, which: str = "last") -> Path:
    """Return the folder that the pointer ``last`` or ``best`` of a run names.

    Without a usable ``last`` pointer, the newest folder; each was renamed only when it was whole.
    """
    folder = _pointed(run, which)
    if folder is None and which == "last":
        folder = max((run / CHECKPOINTS).glob("step-*"), default=None)
    if folder is None:
        raise ValueError(f"{run / CHECKPOINTS} holds no checkpoint called {which!r}")
    return folder


def load_state(folder: Path) -> RunState:
    """Read where a run stood; ``ValueError`` if the folder is no checkpoint."""
    missing = [n for n in (_WEIGHTS, _OPTIMIZER, _STATE) if not (folder / n).is_file()]
    if missing:
        raise ValueError(f"{folder} is not a checkpoint: it has no {', '.join(missing)}")
    try:
        content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        content.pop("versions", None)
        return RunState(**content)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder} is not a checkpoint: {_STATE} is damaged ({error})") from None


def load_weights(folder: Path, task: nn.Module) -> None:
    """Fill ``task`` with the weights of a checkpoint; nothing may be left over or missing."""
    path = folder / _WEIGHTS
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    owned, aliases = _owned(task)
    for name in [*owned, *saved]:
        if name not in saved:
            raise ValueError(f"{path} has no weight {name!r}, which the model needs")
        if name not in owned:
            raise ValueError(f"{path} holds a weight {name!r}, which the model does not have")
        if saved[name].shape != owned[name].shape:
            shapes = f"{list(saved[name].shape)}, not {list(owned[name].shape)}"
            raise ValueError(f"weight {name!r} in {path} has shape {shapes}")
    task.load_state_dict(saved | {a: saved[name] for a, name in aliases.items()}, strict=False)


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> None:
    """Restore the optimizer's moments and the position in the schedule."""
    path = folder / _OPTIMIZER
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is damaged: {reason}") from None
    try:
        optimizer.load_state_dict(saved["optimizer"])
    except (KeyError, ValueError):
        raise ValueError(
            f"{path} belongs to other trained parameters or to another optimizer; resume with the "
            "run's own --model.freeze and --optimization.optimizer"
        ) from None
    schedule.load_state_dict(saved["schedule"])


def _save_optimizer(optimizer: torch.optim.Optimizer, schedule: LambdaLR, path: Path) -> None:
    """Write ``optimizer.pt``; a failed write, ``RuntimeError`` in torch, becomes ``OSError``."""
    content = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(f"cannot write {path.name}: {str(error).partition(chr(10))[0]}") from error


def _owned(task: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the task's tensors, each memory once, and ``{alias: name}`` of the tied ones."""
    owned: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in task.state_dict().items():
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and memory in first:
            aliases[name] = first[memory]
        else:
            first[memory] = name
            owned[name] = tensor
    return owned, aliases


def _pointed(run: Path, which: str) -> Path | None:
    """Return the existing folder that a pointer file names, if any."""
    pointer = run / CHECKPOINTS / which
    if not pointer.is_file():
        return None
    folder = pointer.parent / pointer.read_text(encoding="utf-8").strip()
    return folder if folder.is_dir() and folder != pointer.parent else None


def _prune(run: Path, keep: int) -> None:
    """Delete all checkpoints but the ``keep`` newest (at least one), the last and the best."""
    kept = {_pointed(run, "last"), _pointed(run, "best")}
    folders = sorted((run / CHECKPOINTS).glob("step-*"))
    for folder in folders[: -max(keep, 1)]:
        if folder not in kept:
            remove_folder(folder)
