"""This package's attention in transformers' encoders: the same states, nothing asked of data."""

import pytest
import torch
import transformers as t
from tiny_models import TEXT, VISION, WORDS, scramble

from vilta.model.encoder_attention import NAME, speed_up
from vilta.model.encoders import image_states, text_states

IDS = torch.randint(5, WORDS, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 2 + [0] * 7])
OWN_FORM = ("mpnet", "convnext", "resnet")
"""Encoders that transformers gives no choice of attention."""


def text_pair(kind):
    """The same model twice, the second sped up."""
    model = scramble(t.AutoModelForMaskedLM.from_config(TEXT[kind]), 0.1)
    other = t.AutoModelForMaskedLM.from_config(TEXT[kind])
    other.load_state_dict(model.state_dict())
    return model.eval(), speed_up(other.eval())


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "whole"])
@pytest.mark.parametrize("kind", TEXT)
def test_text_states_are_those_of_transformers(kind, mask):
    model, fast = text_pair(kind)
    assert (fast.config._attn_implementation == NAME) == (kind not in OWN_FORM)
    real = mask.bool()
    with torch.no_grad():
        assert torch.allclose(
            text_states(model, IDS, mask)[real], text_states(fast, IDS, mask)[real], atol=2e-6
        )
    states = [text_states(m, IDS, mask)[real] for m in (model, fast)]
    grads = [
        torch.autograd.grad(s.square().sum(), m.get_input_embeddings().weight)[0]
        for s, m in zip(states, (model, fast), strict=True)
    ]
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", VISION)
def test_image_states_are_those_of_transformers(kind):
    model = scramble(t.AutoModel.from_config(VISION[kind]))
    other = t.AutoModel.from_config(VISION[kind])
    other.load_state_dict(model.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.allclose(
        image_states(model, pixels), image_states(speed_up(other.eval()), pixels), atol=2e-6
    )


def test_attention_weights_are_dropped_as_often_as_asked():
    """The mean over many draws is the state without dropout, as for torch's own form."""
    config = t.BertConfig(
        **{**TEXT["bert"].to_dict(), "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0.25}
    )
    layer = speed_up(t.BertModel(config)).encoder.layer[0].attention.self
    x = torch.randn(1, 9, 32).expand(4000, -1, -1)
    torch.manual_seed(0)
    exact = layer.eval()(x[:1])[0].detach()
    drawn = layer.train()(x)[0].detach()
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - exact[0]).abs() < 5 * error).all() and error.min() > 0


def test_a_choice_of_attention_is_respected():
    config = t.BertConfig(**TEXT["bert"].to_dict(), attn_implementation="eager")
    assert speed_up(t.BertModel(config)).config._attn_implementation == "eager"
