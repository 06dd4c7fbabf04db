"""The attention and dropout of this package inside transformers' encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vilta.model.attention import attend
from vilta.model.dropout import use_fast_dropout

NAME = "vilta"
"""What this attention is called among those of transformers."""


def speed_up(encoder: PreTrainedModel) -> PreTrainedModel:
    """Give a transformers encoder this package's attention and dropout, and return it.

    Its attention then asks nothing of the data (transformers looks whether a mask masks anything,
    and so waits for the device in every call), and trains fast in bf16 on a CPU. An encoder without
    a choice of attention keeps its own, and so does one whose user has chosen another.
    """
    use_fast_dropout(encoder)
    if encoder._supports_attention_backend and encoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attend_for_transformers)
        AttentionMaskInterface.register(NAME, _mask_for_transformers)
        encoder.set_attn_implementation(NAME)
    return encoder


def _attend_for_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Answer to transformers' ``AttentionInterface``; what is not plain goes to its own form."""
    plain_mask = attention_mask is None or attention_mask.dtype == torch.bool
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    biased = any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))
    if not plain_mask or causal or biased or query.shape[1] != key.shape[1]:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
    read = attend(query, key, value, attention_mask, scale=scaling, drop=dropout)
    return read.transpose(1, 2).contiguous(), None


def _mask_for_transformers(*, attention_mask: Tensor | None = None, **options: Any) -> Any:
    """Write the mask that is True where a token may look, without asking what it masks."""
    options["allow_is_bidirectional_skip"] = attention_mask is None
    return sdpa_mask(attention_mask=attention_mask, **options)
