"""Weights, gradients and moments in parts, one on each process: PyTorch's FSDP2.

What takes the steps is a sharded copy of the task. The task itself stays whole on each device and
gets the copy's weights before an evaluation, a checkpoint or the release, which therefore know
nothing of parts: a checkpoint of eight processes loads on one, and on three.

What only a sharded run needs is imported when it begins: not every build of torch has it.
"""

from __future__ import annotations

import copy
import gc
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vilta.types import SharesRows

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Task = TypeVar("Task", bound=nn.Module)
_meshes: dict[str, DeviceMesh] = {}


def sharded_copy(task: Task) -> Task:
    """Return a copy of ``task``, on its device, whose weights are split among all processes.

    The blocks of the encoders are gathered one at a time while they compute. The rest is gathered
    for the whole step: fusion, whose layers are read in parts, embeddings and heads. A learned
    temperature, a single number, stays whole; its gradient is for the caller to average.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    module = copy.deepcopy(task)
    mesh = _all_processes(next(module.parameters()).device.type)
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    single = {p for p in module.parameters() if p.ndim == 0}
    fully_shard(module, mesh=mesh, ignored_params=single)
    if isinstance(task, SharesRows):  # it encodes outside of its forward pass too
        register_fsdp_forward_method(module, "encode")
    return module


@torch.no_grad()
def give_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a whole task what its copy in parts holds; all processes must call it at once."""
    given = dict([*source.named_parameters(), *source.named_buffers()])
    for name, mine in [*target.named_parameters(), *target.named_buffers()]:
        mine.copy_(whole(given[name]))


def in_parts(tensor: Tensor) -> bool:
    """Whether a tensor is one of which each process holds a part (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, who must call this together."""
    return cast(Any, tensor).full_tensor() if in_parts(tensor) else tensor


def placed_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor in parts, where ``other`` is; all processes must call it at once."""
    if not in_parts(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    parts = cast(DTensor, other)
    return distribute_tensor(tensor.to(parts.device), parts.device_mesh, parts.placements)


def _all_processes(device: str) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    if device not in _meshes:
        _meshes[device] = init_device_mesh(device, (torch.distributed.get_world_size(),))
    return _meshes[device]


def forget_processes() -> None:
    """Let go of the group of all processes, so that it can end.

    FSDP2's objects hold it in circles, and PyTorch's caches a mesh that holds it.
    """
    if _meshes:
        gc.collect()
    for mesh in _meshes.values():
        getattr(mesh, "_pg_registry", {}).clear()
    _meshes.clear()


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of transformers' encoders that transformers itself would not split."""
    found: list[nn.Module] = []
    for encoder in module.modules():
        if not isinstance(encoder, PreTrainedModel):
            continue
        names = set(getattr(encoder, "_no_split_modules", None) or ())
        lists = (part for part in encoder.modules() if isinstance(part, nn.ModuleList))
        found += [block for blocks in lists for block in blocks if type(block).__name__ in names]
    return list(dict.fromkeys(found))
