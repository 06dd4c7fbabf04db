"""Checks that an encoder is usable, run when it is loaded rather than in the middle of a run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vilta.model.encoders import (
    check_patch,
    image_states,
    image_width,
    language_model_logits,
    text_states,
)

TOLERANCE = 1e-3
"""Largest difference, as a share of the largest value, that is taken for rounding (our choice)."""
TRIED = 8
"""Words that texts are tried with."""
FAILURES = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What models raise for input that they were not made for."""


def check_image_encoder(encoder: PreTrainedModel, size: int) -> None:
    """Raise ``ValueError`` in one line if an encoder cannot serve for images of ``size`` pixels.

    It must return states of the width that its configuration states, the same ones for the same
    image each time, alone or beside others.
    """
    name = type(encoder).__name__
    if encoder.main_input_name != "pixel_values":
        raise ValueError(f"{name} reads `{encoder.main_input_name}`; take an image encoder")
    check_patch(encoder.config, size, size)
    encoder.eval()
    # Not from the global generator: what is drawn later must not depend on a check.
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            states = image_states(encoder, pixels)
            again, alone = image_states(encoder, pixels), image_states(encoder, pixels[1:])
    except FAILURES as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot encode {size}x{size} pixels: {reason}; use another --data.image-size, "
            "or another image encoder"
        ) from None
    width = image_width(encoder.config)
    if states.dim() != 3 or states.shape[2] != width:
        raise ValueError(
            f"{name} returns states of shape {list(states[:1].shape)} where [1, tokens, {width}] "
            "was expected; take another image encoder"
        )
    if not same(states, again):
        raise ValueError(
            f"{name} returns other states for the same image each time (as ViTMAE, which hides "
            "patches at random); take another image encoder"
        )
    if not same(states[1:], alone):
        raise ValueError(
            f"{name} returns other states for an image alone than beside another one; take another "
            "image encoder"
        )


def check_text_encoder(model: PreTrainedModel, tokens: int) -> None:
    """Raise ``ValueError`` in one line if a masked language model cannot serve as text encoder.

    It must read texts of ``tokens`` tokens (tried, not looked up: positions count from different
    numbers, and some models have no limit), return states that padding beside them does not
    change, and have a head that can be applied to picked states.
    """
    name = type(model).__name__
    model.eval()
    padding = model.config.pad_token_id or 0
    words = [word for word in range(min(TRIED, model.config.vocab_size)) if word != padding]
    ids = torch.tensor([(words * tokens)[:tokens]])
    real = torch.ones_like(ids)
    other = f"{name} cannot serve as text encoder: {{reason}}; take another one, such as BERT"

    def too_long(length: int) -> bool:
        try:
            _tried(lambda: text_states(model, ids[:, :length], real[:, :length]), other)
        except ValueError:
            return True
        return False

    if too_long(tokens) and (most := bisect_left(range(1, tokens), True, key=too_long)):
        raise ValueError(
            f"{name} cannot read {tokens} tokens; give --data.max-text-tokens {most} or lower"
        )

    short = max(1, tokens // 2)
    alone = _tried(lambda: text_states(model, ids[:, :short], real[:, :short]), other)
    ids[:, short:], real[:, short:] = padding, 0
    beside = _tried(lambda: text_states(model, ids, real), other)[:, :short]
    if not same(alone, beside):
        raise ValueError(
            f"{name} returns other states for a text with padding beside it, so captions would "
            "depend on their batch; take another text encoder, such as BERT"
        )
    ids, real = ids[:, :short], real[:, :short]
    whole = _tried(lambda: model(input_ids=ids, attention_mask=real).logits[0], other)
    picked = _tried(lambda: language_model_logits(model, alone[0, ::2]), other)
    if not same(whole[::2], picked):
        raise ValueError(
            f"the head of {name} cannot be applied to picked states; take another text encoder"
        )
    with torch.random.fork_rng(devices=[]):  # dropout is drawn
        _tried(lambda: text_states(model.train(), ids, real), other)
    model.eval()


def _tried(states: Callable[[], Any], message: str) -> Any:
    """Compute something without gradients; a failure is reported as ``message``."""
    try:
        with torch.no_grad():
            return states()
    except FAILURES as error:
        reason = " ".join(str(error).split())
        raise ValueError(message.format(reason=reason)) from None


def same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors differ by no more than rounding."""
    if one.shape != other.shape:
        return False
    largest = max(float(one.abs().max()), 1e-6)
    return float((one - other).abs().max()) <= TOLERANCE * largest
