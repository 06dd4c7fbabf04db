"""Steps are queued one after another: what they report is read late, and changes nothing."""

import time
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import torch
import toy_training
from pretraining_case import make_batch, make_task
from torch import Tensor
from toy_training import ToyTask, metrics, train_toy

from vilta.config import OptimizationConfig, PretrainConfig, RunConfig
from vilta.training import session
from vilta.training.loop import train
from vilta.training.optimization import build_optimizer, step_unless

ONE_BAD = (f"toy#{toy_training.sample_at(13)}",)
ALL_BAD = tuple(f"toy#{i}" for i in range(toy_training.SAMPLES))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_numbers_read_a_step_later_are_the_same_and_so_are_the_weights(
    tmp_path, monkeypatch, optimizer
):
    tasks = {}
    for late in (False, True):
        monkeypatch.setattr(session, "comes_late", lambda device, late=late: late)
        tasks[late] = ToyTask(broken=ONE_BAD)
        settings = {"steps": 11, "log_every": 3, "save_every": 4, "optimizer": optimizer}
        summary = train_toy(tmp_path / str(late), tasks[late], **settings)
        assert summary.step == 11 and summary.skipped > 0
    assert metrics(tmp_path / "True") == metrics(tmp_path / "False")
    for name, tensor in tasks[False].state_dict().items():
        assert torch.equal(tensor, tasks[True].state_dict()[name]), name


def test_a_run_stopped_with_a_report_on_its_way_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "comes_late", lambda device: True)
    whole, pieces = ToyTask(), ToyTask()
    train_toy(tmp_path / "whole", whole)
    assert train_toy(tmp_path / "pieces", ToyTask(stop_at=9)).step == 5
    train_toy(tmp_path / "pieces", pieces, resume=True)
    assert metrics(tmp_path / "pieces") == metrics(tmp_path / "whole")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, pieces.state_dict()[name]), name


def test_a_checkpoint_that_the_clock_asked_for_is_written_once(tmp_path, monkeypatch):
    class Clock:
        perf_counter = staticmethod(time.perf_counter)

        @staticmethod
        def monotonic():  # a minute a step
            return 60.0 * task.steps

    task = ToyTask()
    monkeypatch.setattr(session, "comes_late", lambda device: True)
    monkeypatch.setattr(session, "time", Clock)
    train_toy(tmp_path, task, steps=30, save_every=0, evaluate_every=0, save_minutes=5.0, keep=99)
    saved = [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").iterdir())]
    apart = [after - before for before, after in pairwise(saved)]
    assert len(saved) > 4 and min(apart[:-1]) > 5, saved  # the last step always writes one


def test_a_run_whose_last_step_broke_learns_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "comes_late", lambda device: True)
    with pytest.raises(ValueError, match=r"nothing was learnt: .* in any of 2 steps"):
        train_toy(tmp_path / "two", ToyTask(broken=ALL_BAD), steps=2)
    with pytest.raises(ValueError, match=r"not finite in 3 steps in a row, up to step 3"):
        train_toy(tmp_path / "many", ToyTask(broken=ALL_BAD), steps=9)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_broken_step_changes_neither_weights_nor_moments(kind):
    task, seen = ToyTask(), {}
    optimizer = build_optimizer(task, OptimizationConfig(optimizer=kind, lr=0.1))
    for flag in (0.0, 1.0, 0.0):
        for parameter in task.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if flag else 0.3)
        before = [p.detach().clone() for p in task.parameters() if p.requires_grad]
        moments = tensors(optimizer.state_dict())
        step_unless(optimizer, torch.tensor(flag))
        after = [p for p in task.parameters() if p.requires_grad]
        same = all(map(torch.equal, before, after))
        assert same == bool(flag)
        if flag:
            assert all(map(torch.equal, moments, tensors(optimizer.state_dict())))
        seen[flag] = after
    assert all(p.isfinite().all() for p in seen[0.0])


def test_a_broken_step_leaves_no_trace_in_batch_norms(tmp_path):
    """They are as if the step had not been taken."""
    task, expected = ToyTask(broken=ONE_BAD), torch.nn.BatchNorm1d(3, affine=False)
    summary = train_toy(tmp_path, task, steps=6, evaluate_every=0)
    batches = toy_training.loader_for(4, 2)(start_step=0, rank=0, world_size=1)
    skipped = 0
    for _ in range(6):
        both = next(batches), next(batches)
        if any(set(ONE_BAD) & set(batch.names) for batch in both):
            skipped += 1
            continue
        for batch in both:
            expected(batch.words[:, :3].float())
    assert 0 < skipped == summary.skipped < 6
    assert torch.equal(task.seen.running_mean, expected.running_mean)
    assert torch.equal(task.seen.running_var, expected.running_var)


def tensors(state) -> list[Tensor]:
    """All tensors of a nested state, copied."""
    if isinstance(state, Tensor):
        return [state.detach().clone()]
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return list(chain.from_iterable(tensors(item) for item in items))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_of_a_run_waits_for_the_gpu_cuda(tmp_path, precision):
    """From the batch in pinned memory to the optimizer and the report of the step before."""
    task = make_task(soft_labels="momentum")
    batch = make_batch(task).pin_memory()
    watched = []

    def load(*, start_step, rank, world_size):
        for step in range(start_step, 12):
            if step == 4:
                torch.cuda.set_sync_debug_mode("error")
            if step == 11:
                torch.cuda.set_sync_debug_mode("default")
            watched.append(torch.cuda.get_sync_debug_mode())
            yield replace(batch)

    run = RunConfig(out=str(tmp_path), device="cuda", log_every=100, save_every=0)
    config = PretrainConfig(
        optimization=OptimizationConfig(steps=12, batch_size=5, lr=1e-4, precision=precision),
        run=run,
    )
    try:
        summary = train(
            task,
            load,
            optimization=config.optimization,
            run=run,
            config=config,
            fingerprint="data",
            vocabulary="words",
            resume="",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert summary.step == 12 and summary.skipped == 0
    assert watched == [0] * 4 + [2] * 7 + [0]
    assert torch.get_float32_matmul_precision() == "high"
