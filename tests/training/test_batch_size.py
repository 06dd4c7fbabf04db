"""`batch_size: auto`: the number that fits is found, said, and stands in the run's settings."""

import time
from collections import namedtuple
from dataclasses import replace

import psutil
import pytest
import torch
import toy_training
from toy_training import ToyTask, metrics, train_toy

from vilta.config import OptimizationConfig, PretrainConfig, RunConfig
from vilta.config.yaml_file import load_yaml
from vilta.training import batch_size
from vilta.training.batch_size import (
    largest_power_of_two,
    largest_that_runs,
    two_steps,
    with_batch_size,
    within_free_memory,
)
from vilta.training.processes import start_processes

Memory = namedtuple("Memory", "available")
MB = 2**20


class FullTask(ToyTask):
    """A device's allocator: it has room for so many rows, and fewer once there are moments."""

    def __init__(self, room, room_later):
        super().__init__()
        self.room, self.room_later, self.seen_sizes = room, room_later, []

    def forward(self, batch):
        self.seen_sizes.append(len(batch))
        if len(batch) > (self.room if len(self.seen_sizes) == 1 else self.room_later):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().forward(batch)


def steps_of(task_of, tried):
    """What takes two real steps of a new task with a batch size, and notes the size."""
    accelerator = start_processes(RunConfig(device="cpu"))

    def take(size):
        tried.append(size)
        load = toy_training.loader_for(size, 1)(start_step=0, rank=0, world_size=1)
        settings = OptimizationConfig(batch_size=size, precision="float32")
        two_steps(task_of(), accelerator, settings, load)

    return take


def test_halving_finds_the_largest_batch_that_two_steps_have_room_for():
    tried = []
    size, why = largest_that_runs(steps_of(lambda: FullTask(100, 100), tried), 256)
    assert (size, tried) == (64, [256, 128, 64]) and "a step with 128 runs out of memory" in why
    size, _ = largest_that_runs(steps_of(lambda: FullTask(100, 40), []), 256)
    assert size == 32, "the second step also holds the optimizer's moments"
    size, why = largest_that_runs(steps_of(lambda: FullTask(100, 100), []), 16)
    assert size == 16 and "runs out" not in why
    with pytest.raises(ValueError, match="not even a step with one sample fits"):
        largest_that_runs(steps_of(lambda: FullTask(0, 0), []), 16)


def test_an_error_that_is_not_about_memory_is_not_taken_for_one():
    def broken(size):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        largest_that_runs(broken, 16)


@pytest.mark.parametrize("slow", [False, True])
def test_on_a_cpu_free_memory_bounds_the_batch(monkeypatch, slow):
    """4 MB a sample and half of 1,600 MB: 128 samples take 512 MB, 256 would take 1,024 MB."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1600 * MB))
    monkeypatch.setattr(batch_size, "LONG_ENOUGH", 0.0 if slow else 1e9)
    tried = []

    def take(size):
        tried.append(size)
        held = torch.ones(size * MB)  # float32
        time.sleep(0.1)  # as long as a step
        del held

    size, why = within_free_memory(take, 1024)
    assert size == 128 and "1.7 GB that are free" in why
    assert max(tried) <= (16 if slow else 256), "what is slow is reckoned, not tried"
    size, why = within_free_memory(take, 16)
    assert size == 16 and str(batch_size.STEPS_AN_EPOCH) in why


@pytest.mark.parametrize(("number", "power"), [(0, 1), (1, 1), (2, 2), (37, 32), (4096, 4096)])
def test_powers_of_two(number, power):
    assert largest_power_of_two(number) == power


def settings_for(out, **optimization):
    steps = OptimizationConfig(batch_size="auto", precision="float32", **optimization)
    return PretrainConfig(optimization=steps, run=RunConfig(out=str(out), device="cpu"))


def toy_batches(optimization):
    load = toy_training.loader_for(optimization.samples_at_once, optimization.accumulate)
    return load(start_step=0, rank=0, world_size=1)


def test_the_number_stands_in_the_run_and_whoever_goes_on_takes_it(tmp_path, capsys, monkeypatch):
    config = settings_for(tmp_path / "run", accumulate=2)
    found = with_batch_size(config, ToyTask, toy_batches, samples=100)
    assert found.optimization.batch_size == 4, "16 steps an epoch leave 6 samples for one"
    assert "batch size 4: a step needs some" in capsys.readouterr().err
    number = found.optimization.batch_size
    train_toy(tmp_path / "run", batch_size=number, steps=4)
    assert load_yaml(tmp_path / "run" / "config.yaml", PretrainConfig).optimization.batch_size == 4
    train_toy(tmp_path / "plain", batch_size=4, steps=4)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "plain"), "the search leaves no trace"

    resumed = replace(config, run=replace(config.run, resume=True))
    monkeypatch.setattr(batch_size, "within_free_memory", lambda *_: pytest.fail("searched again"))
    found = with_batch_size(resumed, ToyTask, toy_batches, samples=100)
    assert found.optimization.batch_size == 4
    assert "batch size 4: as the run began" in capsys.readouterr().err


def test_where_there_is_a_number_nothing_is_tried_and_several_processes_need_one(
    tmp_path, monkeypatch
):
    config = replace(settings_for(tmp_path / "run"), optimization=OptimizationConfig())
    assert with_batch_size(config, lambda: pytest.fail("tried"), toy_batches, 100) is config
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in one process"):
        with_batch_size(settings_for(tmp_path / "run"), ToyTask, toy_batches, 100)
    with pytest.raises(ValueError, match="batch_size is auto"):
        _ = settings_for(tmp_path / "run").optimization.samples_at_once
