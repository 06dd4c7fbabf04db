"""Weights, gradients and moments in parts, one on each process: PyTorch's FSDP2.

What takes the steps is a sharded copy of the task. The task itself stays whole on each device and
gets the copy's weights before an evaluation, a checkpoint or the release, which therefore know
nothing of parts: a checkpoint of eight processes loads on one, and on three.
"""

from __future__ import annotations

import copy
import gc
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from vilta.types import SharesRows

Task = TypeVar("Task", bound=nn.Module)
_meshes: dict[str, DeviceMesh] = {}


def sharded_copy(task: Task, device: torch.device) -> Task:
    """Return a copy of ``task`` whose weights are split among all processes.

    The blocks of the encoders are gathered one at a time while they compute. The rest is gathered
    for the whole step: fusion, whose layers are read in parts, embeddings and heads. A learned
    temperature, a single number, stays whole; its gradient is for the caller to average.
    """
    module = copy.deepcopy(task).to(device)
    mesh = _all_processes(device.type)
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


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, who must call this together."""
    return cast(Tensor, tensor.full_tensor()) if isinstance(tensor, DTensor) else tensor


def placed_as(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor in parts, where ``other`` is; all processes must call it at once."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


def _all_processes(device: str) -> DeviceMesh:
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
