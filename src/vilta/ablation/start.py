"""Proof that the arms of one seed start alike: hashes of initial weights and first batches."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from vilta.ablation.probe import first_batches
from vilta.config import PretrainConfig
from vilta.tasks.pretraining import PretrainingTask

BATCHES = 2
DATA = ("pixels", "captions", "masks")
"""What the first batches hold, compared one by one."""


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
    """Say which arms of one seed start otherwise than the first, and in what.

    ``starts`` has the hashes by arm. Parts of the model that an arm does not have are left out.
    """
    hashes: dict[str, dict[str, str]] = {}
    for arm, start in starts.items():
        weights = sorted(start["weights"].items())
        for what, its in [*((what, start[what]) for what in DATA), *weights]:
            hashes.setdefault(what, {})[arm] = its
    odd: dict[tuple[str, ...], list[str]] = {}
    for what, by_arm in hashes.items():
        first = next(iter(by_arm.values()))
        odd.setdefault(tuple(arm for arm, its in by_arm.items() if its != first), []).append(what)
    found = []
    for arms, whats in odd.items():
        if arms:
            said = [what for what in whats if what in DATA]
            if parts := [what for what in whats if what not in DATA]:
                said.append(f"initial weights of {' and '.join(parts)}")
            found.append(f"{', '.join(said)} in {' and '.join(arms)}")
    return found


def _hash(tensors: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(str(tuple(plain.shape)).encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()
