import math

import pytest
import torch

from vilta.model.heads import ContrastiveHead, unit_vectors
from vilta.objectives.contrastive import compare, contrastive_loss, positive_pairs


@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_contrast_under_autocast_has_the_gradient_of_float32(temperature):
    """From the pooled states on; in bf16 a low temperature makes it several percent off."""
    torch.manual_seed(0)
    head, pairs, own = ContrastiveHead(64, 64, 64), 64, torch.arange(64)
    image = torch.randn(pairs, 64)
    text = image + torch.randn(pairs, 64)
    with torch.no_grad():
        head.log_scale.fill_(-math.log(temperature))
        head.text.weight.copy_(head.image.weight)
    found = []
    for coarse in (False, True):
        head.zero_grad()
        states = image.clone().requires_grad_(), text.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=coarse):
            embeds = unit_vectors(head.image, states[0]), unit_vectors(head.text, states[1])
            similarity = compare(*embeds, *embeds, head.scale())
            loss = contrastive_loss(similarity, positive_pairs(own, own))
        loss.backward()
        found.append([*(s.grad for s in states), head.image.weight.grad, head.log_scale.grad])
    for exact, under_autocast in zip(*found, strict=True):
        assert exact.norm() > 0 and (under_autocast - exact).norm() < 1e-4 * exact.norm()


def test_a_head_in_half_precision_takes_states_of_any_format():
    head = ContrastiveHead(8, 8, 4).to(torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        pooled = torch.randn(2, 8, dtype=dtype)
        assert unit_vectors(head.image, pooled).dtype == torch.float32
