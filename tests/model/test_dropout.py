"""Dropout from random bytes: what it drops, what it keeps, and that a seed repeats it."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vilta.model.dropout import Dropout, dropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_place_is_dropped_with_the_asked_probability(p, dtype):
    torch.manual_seed(round(1000 * p))
    share = round(p * 256) / 256  # what 8 bits can say
    kept = dropout(torch.ones(2**20, dtype=dtype), p, training=True)
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share), dtype=dtype).item()}
    dropped = (kept == 0).view(-1, 8)  # each byte of a drawn word on its own
    error = math.sqrt(share * (1 - share) / len(dropped))
    assert (dropped.double().mean(0) - share).abs().max() < 5 * error
    both = (dropped[:, :-1] & dropped[:, 1:]).double().mean(0)
    later = (dropped[1:] & dropped[:-1]).double().mean(0)
    for joint in (both, later):  # neighbours in a word and in the next word are independent
        assert (joint - share**2).abs().max() < 5 * math.sqrt(share**2 / len(dropped))
    assert kept.double().mean() == pytest.approx(1, abs=0.02)


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(7, 13, dtype=torch.float64).transpose(0, 1).requires_grad_()
    y = dropout(x, 0.25, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(gradient, (y != 0).double() / 0.75)
    assert torch.allclose(y, x * gradient)
    assert torch.autograd.gradcheck(
        lambda x: (torch.manual_seed(3), dropout(x, 0.25, training=True))[1], x
    )


def test_a_seed_repeats_it_and_recomputing_draws_the_same():
    x = torch.randn(64, 33, requires_grad=True)
    torch.manual_seed(5)
    first = dropout(x, 0.3, training=True)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x, 0.3, training=True))
    assert not torch.equal(first, dropout(x, 0.3, training=True))
    layer = nn.Sequential(nn.Linear(33, 33), Dropout(0.3), nn.Linear(33, 1))
    gradients = []
    for again in (False, True):
        torch.manual_seed(6)
        y = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        gradients.append(torch.autograd.grad(y.sum(), x)[0])
    assert torch.equal(*gradients)


def test_what_it_leaves_alone():
    x = torch.randn(50)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(dropout(x, 1.0, training=True), torch.zeros(50))
    torch.manual_seed(0)
    rare = dropout(torch.ones(10_000_000), 1e-4, training=True)  # less than a byte can say
    assert (rare == 0).double().mean() == pytest.approx(1e-4, rel=0.2)
    assert dropout(torch.empty(0, 3), 0.5, training=True).shape == (0, 3)


def test_every_dropout_of_a_module_is_replaced():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)), nn.Dropout(0.1)).eval()
    use_fast_dropout(model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert [type(module) for module in found] == [Dropout, Dropout]
    assert [module.p for module in found] == [0.2, 0.1] and not any(m.training for m in found)
