"""Parameter groups, rates, schedule and clipping."""

import pytest
import torch
from toy_training import WIDTH, WORDS, ToyTask

from vilta.config import OptimizationConfig
from vilta.training import muon
from vilta.training.muon import Muon
from vilta.training.optimization import build_optimizer, build_schedule, clip_gradient


def test_each_group_has_its_rate_and_only_matrices_decay():
    task = ToyTask()
    config = OptimizationConfig(
        lr=1e-3, encoder_lr_multiplier=0.2, head_lr_multiplier=5.0, weight_decay=0.1
    )
    groups = build_optimizer(task, config).param_groups
    found = {id(p): (g["lr"], g["weight_decay"], g["betas"]) for g in groups for p in g["params"]}
    betas = (0.9, config.beta2)
    assert found[id(task.words.weight)] == (pytest.approx(2e-4), 0.1, betas)
    assert found[id(task.mix.weight)] == (1e-3, 0.1, betas)
    assert found[id(task.norm.weight)] == found[id(task.mix.bias)] == (1e-3, 0.0, betas)
    assert found[id(task.head.bias)] == (5e-3, 0.0, betas)
    assert id(task.teacher.weight) not in found, "frozen"
    assert len(found) == sum(p.requires_grad for p in task.parameters())


def test_muon_takes_the_matrices_inside_and_adamw_the_rest():
    task = ToyTask()
    config = OptimizationConfig(optimizer="muon", lr=1e-3, encoder_lr_multiplier=0.2)
    optimizer = build_optimizer(task, config)
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(groups)
    by_muon = {id(p) for p in task.parameters() if "ns_steps" in groups.get(id(p), {})}
    assert by_muon == {id(task.mix.weight), id(task.pooler.weight)}, "not words, not the head"
    assert groups[id(task.mix.weight)]["lr"] == 1e-3
    assert groups[id(task.pooler.weight)]["lr"] == groups[id(task.words.weight)]["lr"] == 2e-4
    assert groups[id(task.norm.weight)]["weight_decay"] == 0


def test_muon_leaves_tied_words_alone_where_there_are_more_positions_than_words():
    task = ToyTask()
    task.positions = torch.nn.Embedding(WORDS + 1, WIDTH).requires_grad_(False)
    groups = build_optimizer(task, OptimizationConfig(optimizer="muon")).param_groups
    by_muon = {id(p) for group in groups if "ns_steps" in group for p in group["params"]}
    assert by_muon == {id(task.mix.weight), id(task.pooler.weight)}


def test_a_muon_step_turns_the_gradient_and_is_as_long_as_one_of_adamw():
    before, task = ToyTask(), ToyTask()
    rate = 1e-2
    optimizer = build_optimizer(
        task, OptimizationConfig(optimizer="muon", lr=rate, weight_decay=0.0)
    )
    weight = task.mix.weight
    weight.grad = torch.diag(torch.logspace(0, -1.5, len(weight))) @ torch.randn(weight.shape)
    optimizer.step()
    change = (weight - before.mix.weight).detach()
    # All singular values of the step are nearly alike, however unlike those of the gradient are.
    values = torch.linalg.svdvals(change)
    assert values.max() / values.min() < 2 < 10 < torch.linalg.cond(weight.grad)
    assert change.square().mean().sqrt() == pytest.approx(0.2 * rate, rel=0.3)
    assert torch.equal(task.words.weight, before.words.weight), "it had no gradient"


def test_muon_is_torchs_in_float32(monkeypatch):
    """Several matrices of one shape, tall and wide ones, one without a gradient; decay and rate."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)  # torch's takes that format
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8), (24, 8), (8, 8)]
    starts = [torch.randn(shape) for shape in shapes]
    pairs = [[torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2)]
    made = [
        Muon([{"params": pairs[0], "lr": 0.1, "weight_decay": 0.3}]),
        torch.optim.Muon(pairs[1], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(3):
        for i, (own, reference) in enumerate(zip(*pairs, strict=True)):
            missing = i == 3 and step < 2
            reference.grad = own.grad = None if missing else torch.randn(shapes[i])
        for optimizer in made:
            optimizer.step()
        for own, reference in zip(*pairs, strict=True):
            torch.testing.assert_close(own, reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(optimizer.state_dict()["state"] for optimizer in made))
    made[1].load_state_dict(made[0].state_dict())  # a run may go on with either


def test_muon_takes_bf16_only_where_a_unit_is_fast_in_it(monkeypatch):
    matrices = torch.randn(2, 24, 16)
    found = {}
    for unit in ("", "AVX512-BF16", "AMX", "tensor cores"):
        monkeypatch.setattr(muon, "native_bf16", lambda device, unit=unit: unit)
        found[unit] = muon.orthogonalised(matrices, (3.4445, -4.775, 2.0315), 5, 1e-7)
        assert found[unit].dtype == torch.float32
    assert torch.equal(found[""], found["AVX512-BF16"])
    assert torch.equal(found["AMX"], found["tensor cores"])
    assert 0 < (found["AMX"] - found[""]).abs().max() < 0.05


def test_muon_steps_many_matrices_a_few_at_a_time(monkeypatch):
    starts = [torch.randn(6, 4) for _ in range(5)]
    gradients = [torch.randn(6, 4) for _ in range(5)]
    found = []
    for at_once in (1, 2 * 24, 2**25):
        monkeypatch.setattr(muon, "AT_ONCE", at_once)
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        Muon([{"params": parameters, "lr": 0.1}]).step()
        found.append(torch.stack([*parameters]).detach())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def groups_of(task: ToyTask, **changes):
    task.parameter_groups = lambda: {**ToyTask.parameter_groups(task), **changes}
    return task


def test_a_parameter_in_no_group_or_in_two_is_named():
    config, task = OptimizationConfig(), ToyTask()
    with pytest.raises(ValueError, match=r"'head.bias' is in no parameter group"):
        build_optimizer(groups_of(task, heads=[]), config)
    with pytest.raises(ValueError, match=r"'mix.bias' is in two groups: fusion and heads"):
        build_optimizer(groups_of(task, heads=[task.head.bias, task.mix.bias]), config)
    with pytest.raises(ValueError, match="unknown parameter group 'head'; known: encoders"):
        build_optimizer(groups_of(task, head=[task.head.bias]), config)
    with pytest.raises(ValueError, match="'heads' holds a parameter that is not the task's"):
        build_optimizer(groups_of(task, heads=[torch.nn.Parameter(torch.ones(1))]), config)
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(ToyTask().requires_grad_(False), config)


@pytest.mark.parametrize(
    ("name", "middle", "end"),
    [
        ("linear", 0.5, 0.0),
        ("cosine", 0.5, 0.0),
        ("constant", 1.0, 1.0),
        ("constant-cooldown", 1.0, 0.0),
    ],
)
def test_the_rate_warms_up_and_falls(name, middle, end):
    config = OptimizationConfig(steps=100, warmup=0.2, schedule=name, lr=2.0)
    optimizer = build_optimizer(ToyTask(), config)
    schedule = build_schedule(optimizer, config)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[-1] / 2.0)
        optimizer.step()
        schedule.step()
    assert rates[0] == 0 and rates[10] == pytest.approx(0.5) and rates[20] == 1
    assert rates[60] == pytest.approx(middle) and rates[100] == pytest.approx(end)


def test_the_cooldown_is_a_line_over_its_share_of_the_steps():
    for cooldown, warmup, expected in ((0.5, 0.1, 0.5), (1.0, 0.5, 0.5), (0.0, 0.1, 1.0)):
        config = OptimizationConfig(
            steps=100, warmup=warmup, schedule="constant-cooldown", cooldown=cooldown
        )
        rate = build_schedule(build_optimizer(ToyTask(), config), config).lr_lambdas[0]
        assert rate(50) == 1
        assert rate(75) == pytest.approx(expected)
        assert rate(99) == pytest.approx(1 if cooldown == 0 else 0.02)


def test_clipping_returns_the_norm_before_it():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    for largest, expected in ((0.0, 5.0), (10.0, 5.0), (1.0, 1.0)):
        parameters[0].grad = torch.tensor([3.0, 4.0])  # the other one was not used
        assert clip_gradient(parameters, largest) == pytest.approx(5.0)
        assert parameters[0].grad.norm() == pytest.approx(expected, rel=1e-5)


def test_the_state_of_another_optimizer_is_refused():
    one, other = OptimizationConfig(optimizer="muon"), OptimizationConfig(optimizer="adamw")
    saved = build_optimizer(ToyTask(), other).state_dict()
    with pytest.raises(ValueError, match="the state is that of another optimizer"):
        build_optimizer(ToyTask(), one).load_state_dict(saved)
