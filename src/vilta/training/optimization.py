"""AdamW with one rate for encoders, one for fusion and one for heads, and its schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from vilta.config import OptimizationConfig
from vilta.types import TrainableTask

GROUPS = ("encoders", "fusion", "heads")


def build_optimizer(task: TrainableTask, config: OptimizationConfig) -> torch.optim.AdamW:
    """Build fused AdamW over ``task.parameter_groups()``; frozen parameters are left out.

    Raises ``ValueError`` naming the parameter that is in no group or in two, and the group that
    is not one of encoders, fusion and heads.
    """
    rates = {
        "encoders": config.lr * config.encoder_lr_multiplier,
        "fusion": config.lr,
        "heads": config.lr * config.head_lr_multiplier,
    }
    groups: list[dict[str, Any]] = []
    for name, parameters in _checked_groups(task).items():
        # Biases, norms and temperatures are 1-D or 0-D: pulling them to zero helps nothing.
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim >= 2) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": rates[name], "weight_decay": decay})
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    return torch.optim.AdamW(groups, betas=(0.9, config.beta2), fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, config: OptimizationConfig) -> LambdaLR:
    """Build the warm-up and decay; stepped once for each optimizer step, skipped ones included."""
    name = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    warmup = round(config.warmup * config.steps)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=config.steps)


def clip_gradient(parameters: list[torch.nn.Parameter], largest: float) -> Tensor:
    """Scale the gradient down to norm ``largest`` (0: leave it) and return the norm before that.

    The norm stays on the device; a non-finite one is for the caller to see.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if largest > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


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
