"""The state of a training run on disk: written whole or not at all, read strictly.

``checkpoints/step-00000123/`` holds ``model.safetensors``, ``optimizer.pt`` and ``state.json``, the
same bytes for the same state, and their ``SHA256SUMS``. The newest whole folder is the one to go on
from, and its state names the best one; so one rename moves everything. No random state is stored:
the loop derives every random number from the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vilta.json_text import json_object, parse_json
from vilta.torch_file import load_torch_file
from vilta.training.folder import CHECKPOINTS, remove_folder, replaced_folder
from vilta.training.sharding import placed_as, whole

_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.pt", "state.json"
_SUMS = "SHA256SUMS"
"""Checksums of these three, as ``sha256sum --check`` reads them."""
_CLOCK = "clock.json"
"""What depends on the clock; apart, so that the other files are equal for equal states."""
_LIBRARIES = ("torch", "transformers", "accelerate")


@dataclass(kw_only=True)
class RunState:
    """The position of a run: its state apart from weights and optimizer moments."""

    fingerprint: str
    """Hash of the training data; a run only resumes on the same."""
    vocabulary: str
    """Hash of the words and special ids of the tokenizer."""
    seed: int
    global_batch: int
    """Samples of one optimizer step on all devices; with the step it gives the data position."""
    order: str | None = ""
    """Settings that decide which samples a step has, but for ``global_batch``; None: not known."""
    precision: str = ""
    """Format of the last session's matrix products; `precision: auto` keeps it when resuming."""
    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    skipped: int = 0
    """Steps skipped because their loss or gradient was not finite."""
    seconds: float = 0.0
    """Time spent in training steps, over all sessions of the run."""
    evaluated: int = -1
    """Step of the last evaluation; -1: none yet."""
    stale: int = 0
    """Evaluations since the best one."""
    best: dict[str, Any] | None = None
    """``step``, ``metric``, ``value`` and all ``metrics`` of the best evaluation."""
    window: dict[str, list[float]] = field(default_factory=dict)
    """What the steps since the last line of metrics.jsonl reported."""

    def check(self) -> None:
        """Raise ``ValueError`` that names the first field with a value of another type."""
        for name, hint in get_type_hints(type(self)).items():
            hints = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            kinds = {get_origin(each) or each for each in hints}
            value = getattr(self, name)
            if type(value) not in (kinds | {int} if float in kinds else kinds):
                raise ValueError(f"field {name!r} is wrong")
        if self.best is not None and type(self.best.get("step")) is not int:
            raise ValueError("field 'best' is wrong")

    def refuse_other(self, now: RunState, *, accept_other_data: bool) -> None:
        """Raise ``ValueError`` if a run set up as ``now`` cannot continue from this state."""
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
        if self.order not in (None, now.order) and not accept_other_data:
            then, later = (order or "data.bucket_steps 0" for order in (self.order, now.order))
            raise ValueError(
                f"the run was started with {then}, not {later}: some samples of this epoch would "
                "come twice; set them to the same (for another number of devices change accumulate)"
            )


def save_checkpoint(
    run: Path, task: nn.Module, moments: dict[str, Any], state: RunState, *, keep: int
) -> Path:
    """Write the checkpoint of ``state.step``, then delete older ones.

    ``moments`` is what ``whole_state`` returns. The last ``keep`` checkpoints and the best stay.
    When the disk is full or fails, nothing half written is left, the earlier checkpoints stay, and
    a ``ValueError`` says so in one line.
    """
    folder = _folder(run, state.step)
    try:
        with replaced_folder(folder) as temporary:
            weights = {k: v.detach().cpu().contiguous() for k, v in _owned(task)[0].items()}
            save_file(weights, temporary / _WEIGHTS)
            _save_moments(moments, temporary / _OPTIMIZER)
            content = asdict(state) | {"versions": {name: version(name) for name in _LIBRARIES}}
            clock = {"seconds": content.pop("seconds")}
            _write_json(temporary / _STATE, content)
            _write_json(temporary / _CLOCK, clock)
            sums = [f"{_digest(temporary / n)}  {n}\n" for n in (_WEIGHTS, _OPTIMIZER, _STATE)]
            (temporary / _SUMS).write_text("".join(sums), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        last = max(checkpoint_folders(run), default=None)
        left = f"{last.name} is whole" if last else "there is no earlier one"
        reason = " ".join(str(error).split())
        raise ValueError(
            f"cannot save checkpoint {folder.name} in {folder.parent}: {reason}; {left}. Make room "
            "and go on with --run.resume auto"
        ) from error
    prune(run, keep, state)
    return folder


def checkpoint_folders(run: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first; each was renamed only once complete."""
    return sorted((run / CHECKPOINTS).glob("step-*"))


def find_checkpoint(run: Path) -> tuple[Path, RunState, list[str]]:
    """Return the newest intact checkpoint, where it stands, and a line for each newer damaged one.

    Raises ``ValueError`` if there is none.
    """
    damaged: list[str] = []
    for folder in reversed(checkpoint_folders(run)):
        try:
            return folder, load_state(folder), damaged
        except ValueError as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError(
            f"no checkpoint in {run / CHECKPOINTS} is whole, the newest: {damaged[0]}; "
            "--run.overwrite starts the run over"
        )
    raise ValueError(f"{run / CHECKPOINTS} holds no checkpoint")


def best_checkpoint(run: Path, state: RunState) -> Path:
    """Return the checkpoint with the weights of ``state.best``; ``ValueError`` if it is damaged."""
    assert state.best is not None
    folder = _folder(run, state.best["step"])
    load_state(folder)
    return folder


def set_aside_newer(run: Path, folder: Path) -> None:
    """Rename the damaged checkpoints after ``folder``, from which the run continues."""
    for newer in checkpoint_folders(run):
        if newer > folder:
            aside = newer.with_name(f"damaged-{newer.name}")
            if aside.exists():
                remove_folder(aside)
            newer.rename(aside)


def load_state(folder: Path) -> RunState:
    """Check a checkpoint's files against their sums, and return the position of the run.

    Raises ``ValueError`` in one line if the folder is not a checkpoint or a file is damaged.
    """
    missing = [n for n in (_WEIGHTS, _OPTIMIZER, _STATE) if not (folder / n).is_file()]
    if missing:
        raise ValueError(f"{folder} is not a checkpoint: it has no {', '.join(missing)}")
    if (folder / _SUMS).is_file():
        _check_sums(folder)
    try:
        content = parse_json((folder / _STATE).read_text(encoding="utf-8"))
        content.pop("versions", None)
        content.setdefault("order", None)  # checkpoints of before it was noted
        if "seconds" not in content:  # where it was before there were sums
            _check_sums(folder)
        state = RunState(**content)
        state.check()
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} is not a checkpoint: {_STATE} is damaged ({reason})") from None
    if folder.name != _folder(folder, state.step).name:
        raise ValueError(f"{folder} is damaged: it holds the checkpoint of step {state.step}")
    state.seconds = _read_clock(folder, state.seconds)
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint by name, tied ones once."""
    path = folder / _WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def load_weights(folder: Path, task: nn.Module) -> None:
    """Fill ``task`` with the weights of a checkpoint; unexpected or missing ones are an error."""
    path, saved = folder / _WEIGHTS, read_weights(folder)
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
    """Restore the optimizer's moments and the position in the schedule.

    Rates, decay and the schedule itself stay those that the run is given now.
    """
    path = folder / _OPTIMIZER
    try:
        saved = load_torch_file(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    given = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    peaks = schedule.base_lrs
    try:
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"] | {"base_lrs": peaks})
        for group, own, peak, rate in zip(
            optimizer.param_groups, given, peaks, schedule.lr_lambdas, strict=True
        ):
            group.update(own, lr=peak * rate(schedule.last_epoch))
        for parameter, values in optimizer.state.items():
            optimizer.state[parameter] = {k: placed_as(v, parameter) for k, v in values.items()}
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError):
        raise ValueError(
            f"{path} belongs to other trained parameters or to another optimizer; resume with the "
            "run's own frozen encoders and --optimization.optimizer"
        ) from None


def whole_state(optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> dict[str, Any]:
    """Return moments and schedule as they are saved; sharded ones are gathered by all processes."""
    content = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    return cast(dict[str, Any], _canonical(content))


def _save_moments(moments: dict[str, Any], path: Path) -> None:
    """Write ``optimizer.pt``; a failed write, ``RuntimeError`` in torch, becomes ``OSError``."""
    try:
        torch.save(moments, path)
    except RuntimeError as error:
        raise OSError(f"cannot write {path.name}: {str(error).partition(chr(10))[0]}") from error


def _canonical(value: Any) -> Any:
    """Return a copy whose pickle depends on the values alone.

    Pickle writes an object that it meets twice as a reference. Which strings and containers of an
    optimizer's state are one object differs between a run that went on and one that never stopped.
    """
    if isinstance(value, dict):
        return {_canonical(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_canonical(item) for item in value])
    if isinstance(value, Tensor):
        return whole(value.detach()).cpu().contiguous()
    return sys.intern(value) if type(value) is str else value


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sums(folder: Path) -> None:
    """Raise ``ValueError`` that names the first file which is not what was written."""
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        for name in (_WEIGHTS, _OPTIMIZER, _STATE):
            if sums.get(name) != _digest(folder / name):
                raise ValueError(f"{folder} is damaged: {name} is not what was written")
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{folder} is damaged: {_SUMS} is not what was written") from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _read_clock(folder: Path, otherwise: float) -> float:
    """Return the seconds of training so far; nothing depends on them, so damage is not an error."""
    try:
        return float(json_object(folder / _CLOCK)["seconds"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return otherwise


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


def _folder(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08d}"


def prune(run: Path, keep: int, state: RunState) -> None:
    """Delete all checkpoints but the ``keep`` newest (at least one) and the best."""
    best = _folder(run, state.best["step"]) if state.best is not None else None
    for folder in checkpoint_folders(run)[: -max(keep, 1)]:
        if folder != best:
            remove_folder(folder)
