"""`vilta pretrain CONFIG.yaml`: pre-trains two encoders and a fusion on image-text pairs."""

from __future__ import annotations

from typing import Any

from vilta.config import PretrainConfig
from vilta.pretraining_run import pretrain


def run(config: PretrainConfig) -> dict[str, Any] | None:
    """Pre-train; see :func:`vilta.pretraining_run.pretrain`."""
    return pretrain(config)
