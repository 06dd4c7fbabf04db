"""Checkpoints: whole or absent, strict to read, kept or deleted as promised."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import ToyTask

from vilta.config import OptimizationConfig
from vilta.training import checkpoint
from vilta.training.checkpoint import (
    RunState,
    find_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
)
from vilta.training.optimization import build_optimizer, build_schedule


def state_at(step: int, best: int = -1) -> RunState:
    chosen = (
        {"step": best, "metric": "m", "value": 0.5, "figures": {"m": 0.5}} if best >= 0 else None
    )
    return RunState(fingerprint="d", vocabulary="v", seed=0, global_batch=8, step=step, best=chosen)


def trained(task: ToyTask):
    """An optimizer whose moments are not zero, and its schedule."""
    config = OptimizationConfig(steps=10, warmup=0.5)
    optimizer = build_optimizer(task, config)
    schedule = build_schedule(optimizer, config)
    for parameter in task.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    schedule.step()
    return optimizer, schedule


def save(run: Path, state: RunState, task: ToyTask | None = None, keep: int = 2) -> Path:
    task = task or ToyTask()
    return save_checkpoint(run, task, *trained(task), state, keep=keep)


def test_everything_comes_back_exactly(tmp_path):
    task, state = ToyTask(), state_at(7, best=7)
    state.window = {"loss": [0.1, 1 / 3, 2e-9]}
    optimizer, schedule = trained(task)
    folder = save_checkpoint(tmp_path, task, optimizer, schedule, state, keep=1)
    other = ToyTask()
    load_weights(folder, other)
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert other.head.weight is other.words.weight, "tied weights must stay tied"
    config = OptimizationConfig(steps=10, warmup=0.5)
    moments = build_optimizer(other, config)
    position = build_schedule(moments, config)
    load_optimizer(folder, moments, position)
    assert position.last_epoch == schedule.last_epoch == 1
    for new, old in zip(moments.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(new[key], old[key]) for key in old)
    assert load_state(folder) == state


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, state_at(step, best=min(step, 2)))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["best", "last", "step-00000002", "step-00000004", "step-00000005"]
    assert find_checkpoint(tmp_path).name == "step-00000005"
    assert find_checkpoint(tmp_path, "best").name == "step-00000002"
    (tmp_path / "checkpoints" / "last").write_text("step-99999999")
    assert find_checkpoint(tmp_path).name == "step-00000005", "the newest whole one"


def test_a_weight_too_many_or_missing_is_named(tmp_path):
    folder = save(tmp_path, state_at(1))
    task = ToyTask()
    task.extra = torch.nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match=r"has no weight 'extra.weight'"):
        load_weights(folder, task)
    task = ToyTask()
    del task.pooler
    with pytest.raises(ValueError, match=r"holds a weight 'pooler.(bias|weight)'"):
        load_weights(folder, task)
    task = ToyTask()
    task.mix = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"'mix.weight' .* has shape \[8, 24\], not \[3, 3\]"):
        load_weights(folder, task)
    task = ToyTask()
    task.mix.requires_grad_(False)
    config = OptimizationConfig()
    optimizer = build_optimizer(task, config)
    with pytest.raises(ValueError, match="other trained parameters"):
        load_optimizer(folder, optimizer, build_schedule(optimizer, config))


def test_what_is_not_a_checkpoint_is_an_error_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint called 'last'"):
        find_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"not a checkpoint: it has no model.safetensors"):
        load_state(tmp_path)
    folder = save(tmp_path, state_at(1))
    task = ToyTask()
    for name in ("model.safetensors", "optimizer.pt"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: [^\n]*$"):
        load_weights(folder, task)
    with pytest.raises(ValueError, match=r"optimizer.pt is damaged: [^\n]*$"):
        load_optimizer(folder, *trained(task))


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.recursive(st.integers(), st.lists).map(json.dumps)))
def test_a_damaged_state_is_an_error_in_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("step")
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).touch()
    (folder / "state.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"is not a checkpoint: state.json is damaged"):
        load_state(folder)


@pytest.mark.parametrize("writer", ["save_file", "_save_optimizer", "replace_text"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, writer):
    save(tmp_path, state_at(1), keep=1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, writer, full)
    with pytest.raises(ValueError, match=r"step-00000002.*No space left.*step-00000001 is whole"):
        save(tmp_path, state_at(2), keep=1)
    assert find_checkpoint(tmp_path).name == "step-00000001"
    load_weights(find_checkpoint(tmp_path), ToyTask())
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
@pytest.mark.parametrize("share", [0.5, 1.5])  # of the weights' file: the optimizer's is larger
def test_real_failed_writes_are_caught(tmp_path, share):
    import resource

    size = (save(tmp_path, state_at(1)) / "model.safetensors").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), before[1]))
        with pytest.raises(ValueError, match="cannot save checkpoint step-00000002") as caught:
            save(tmp_path, state_at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and "step-00000001 is whole" in str(caught.value)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["last", "step-00000001"]
