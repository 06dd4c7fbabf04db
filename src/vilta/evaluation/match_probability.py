"""Calibrated match probabilities of encoded images with token ids."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vilta.metrics.calibration import calibrated
from vilta.model.modeling import WithMatching


@torch.no_grad()
def match_probabilities(
    model: WithMatching,
    input_ids: Int[Tensor, "B L"],
    attention_mask: Int[Tensor, "B L"],
    image_states: Float[Tensor, "B P C"],
) -> list[float]:
    """Return the probability (0 to 1) that caption i matches encoded image i."""
    text_states = model.vilta.encode_text(input_ids, attention_mask)
    logits = model.match(text_states, attention_mask, image_states).float()
    odds, config = (logits[:, 1] - logits[:, 0]).cpu().numpy(), model.config
    return calibrated(odds, config.match_temperature, config.match_bias).tolist()
