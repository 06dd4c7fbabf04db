"""AdamW or Muon with one rate for encoders, one for fusion and one for heads, and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler, get_wsd_schedule

from vilta.config import OptimizationConfig
from vilta.training.muon import Muon
from vilta.training.sharding import whole
from vilta.types import TrainableTask

GROUPS = ("encoders", "fusion", "heads")


def build_optimizer(task: TrainableTask, config: OptimizationConfig) -> torch.optim.Optimizer:
    """Build the optimizer over ``task.parameter_groups()``; frozen parameters are left out.

    Raises ``ValueError`` naming the parameter that is in no group or in two, and the group that
    is not one of encoders, fusion and heads.
    """
    rates = {
        "encoders": config.lr * config.encoder_lr_multiplier,
        "fusion": config.lr,
        "heads": config.lr * config.head_lr_multiplier,
    }
    muon_takes = _layer_matrices(cast(nn.Module, task)) if config.optimizer == "muon" else set()
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for name, parameters in _checked_groups(task).items():
        inner = [p for p in parameters if id(p) in muon_takes]
        rest = [p for p in parameters if id(p) not in muon_takes]
        # Biases, norms and temperatures are 1-D or 0-D: pulling them to zero helps nothing.
        flat, tables = [p for p in rest if p.ndim < 2], [p for p in rest if p.ndim >= 2]
        for groups, chosen, decay in [
            (matrices, inner, config.weight_decay),
            (others, tables, config.weight_decay),
            (others, flat, 0.0),
        ]:
            if chosen:
                groups.append({"params": chosen, "lr": rates[name], "weight_decay": decay})
    if not matrices and not others:
        raise ValueError("nothing to train: every parameter is frozen")
    parts: list[torch.optim.Optimizer] = []
    if others:
        parts.append(torch.optim.AdamW(others, betas=(0.9, config.beta2), fused=True))
    if matrices:
        parts.append(Muon(matrices))
    return Joined(parts) if matrices else parts[0]


class Joined(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, that act as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__(self._groups(), {})

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Step each of them; a ``closure`` is not supported."""
        assert closure is None
        for part in self.parts:
            part.found_inf = getattr(self, "found_inf", None)  # of ``step_unless``
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states; ``ValueError`` if they are those of other optimizers."""
        saved = state_dict.get("parts", [])
        if len(saved) != len(self.parts):
            raise ValueError("the state is that of another optimizer")
        for part, state in zip(self.parts, saved, strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()  # the parts have made new ones

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parts' own groups, so that changing a learning rate here changes it there."""
        return [group for part in self.parts for group in part.param_groups]


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizationConfig) -> LambdaLR:
    """Build the warm-up and decay; stepped once for each optimizer step, skipped ones included."""
    warmup = round(config.warmup * config.steps)
    if config.schedule == "constant-cooldown":
        decay = min(round(config.cooldown * config.steps), config.steps - warmup)
        return get_wsd_schedule(
            optimizer, warmup, decay, num_training_steps=config.steps, decay_type="linear"
        )
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=config.steps)


def clip_gradient(parameters: list[torch.nn.Parameter], largest: float) -> Tensor:
    """Clip the gradient to norm ``largest`` (0: no clipping) and return the norm before clipping.

    The norm stays on the device; a non-finite one is for the caller to see.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if largest > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return whole(norm)


def step_unless(optimizer: torch.optim.Optimizer, broken: Tensor) -> None:
    """Step, or change neither weights nor moments where ``broken`` is 1 (a number on the device).

    Nothing waits for it: the optimizers decide on the device.
    """
    optimizer.found_inf = broken  # where torch's GradScaler puts it
    optimizer.step()


def _layer_matrices(task: nn.Module) -> set[int]:
    """Return the ids of the weights that Muon is meant for: matrices inside the network.

    Embeddings, and an output layer that has a row for each of the words, stay with AdamW.
    """
    tables = [m for m in task.modules() if isinstance(m, nn.Embedding)]
    words = max((table.num_embeddings for table in tables), default=0)
    layers = [m for m in task.modules() if isinstance(m, nn.Linear) and m.out_features != words]
    return {id(layer.weight) for layer in layers} - {id(table.weight) for table in tables}


def _checked_groups(task: TrainableTask) -> dict[str, list[torch.nn.Parameter]]:
    """Return the trainable parameters by group, each exactly once."""
    names = {id(p): name for name, p in task.named_parameters()}
    owner: dict[int, str] = {}
    checked: dict[str, list[torch.nn.Parameter]] = {}
    for group, parameters in task.parameter_groups().items():
        if group not in GROUPS:
            raise ValueError(f"unknown parameter group {group!r}; known: {', '.join(GROUPS)}")
        checked[group] = []
        for parameter in parameters:
            if id(parameter) not in names:
                raise ValueError(f"group {group!r} holds a parameter that is not the task's own")
            first = owner.get(id(parameter))
            if first is None:
                owner[id(parameter)] = group
                if parameter.requires_grad:
                    checked[group].append(parameter)
            elif first != group:
                name = names[id(parameter)]
                raise ValueError(f"parameter {name!r} is in two groups: {first} and {group}")
    for name, parameter in task.named_parameters():
        if parameter.requires_grad and id(parameter) not in owner:
            raise ValueError(f"parameter {name!r} is in no parameter group of the task")
    return checked
