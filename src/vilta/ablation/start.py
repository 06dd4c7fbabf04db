"""Proof that the arms of one seed start alike: hashes of initial weights and first batches."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from vilta.ablation.probe import first_batches
from vilta.config import PretrainConfig
from vilta.tasks.pretraining import PretrainingTask

BATCHES = 2


def start_hashes(task: PretrainingTask, settings: PretrainConfig) -> dict[str, Any]:
    """Return hashes by part of the model, and of what the first batches hold."""
    parts: dict[str, list[tuple[str, Tensor]]] = {}
    for name, value in task.model.named_parameters():
        parts.setdefault(".".join(name.split(".")[:2]), []).append((name, value))
    batches = first_batches(task, settings, BATCHES)
    return {
        "weights": {
            part: _hash(value for _, value in sorted(values, key=lambda item: item[0]))
            for part, values in parts.items()
        },
        "pixels": _hash(batch.pixel_values for batch in batches),
        "captions": _hash(batch.input_ids for batch in batches),
        "masks": _hash(batch.masked_positions for batch in batches),
    }


def differences(starts: dict[str, dict[str, Any]]) -> list[str]:
    """Say in which parts the arms of one seed differ; ``starts`` has the hashes by arm.

    Parts of the model that an arm does not have are left out.
    """
    found = []
    for what in ("pixels", "captions", "masks"):
        if len({start[what] for start in starts.values()}) > 1:
            found.append(what)
    parts = {part for start in starts.values() for part in start["weights"]}
    for part in sorted(parts):
        hashes = {s["weights"][part] for s in starts.values() if part in s["weights"]}
        if len(hashes) > 1:
            found.append(f"initial weights of {part}")
    return found


def _hash(tensors: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(str(tuple(plain.shape)).encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()
