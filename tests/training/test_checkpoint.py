"""Checkpoints: whole or absent, strict to read, kept or deleted as promised."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import Killed, ToyTask, dies_after

from vilta.config import OptimizationConfig, RunConfig
from vilta.training import checkpoint
from vilta.training.checkpoint import (
    RunState,
    best_checkpoint,
    find_checkpoint,
    load_optimizer,
    load_state,
    load_weights,
    save_checkpoint,
    set_aside_newer,
    whole_state,
)
from vilta.training.folder import check_run_folder, replaced_folder
from vilta.training.optimization import build_optimizer, build_schedule


def state_at(step: int, best: int = -1) -> RunState:
    chosen = (
        {"step": best, "metric": "m", "value": 0.5, "metrics": {"m": 0.5}} if best >= 0 else None
    )
    return RunState(fingerprint="d", vocabulary="v", seed=0, global_batch=8, step=step, best=chosen)


def trained(task: ToyTask, config: OptimizationConfig | None = None, steps: int = 1):
    """An optimizer that has taken steps, and its schedule."""
    config = config or OptimizationConfig(steps=10, warmup=0.5)
    optimizer = build_optimizer(task, config)
    schedule = build_schedule(optimizer, config)
    for parameter in task.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    for _ in range(steps):
        optimizer.step()
        schedule.step()
    return optimizer, schedule


def save(run: Path, state: RunState, task: ToyTask | None = None, keep: int = 2) -> Path:
    task = task or ToyTask()
    return save_checkpoint(run, task, whole_state(*trained(task)), state, keep=keep)


def test_everything_comes_back_exactly(tmp_path):
    task, state = ToyTask(), state_at(7, best=7)
    state.window = {"loss": [0.1, 1 / 3, 2e-9]}
    optimizer, schedule = trained(task)
    folder = save_checkpoint(tmp_path, task, whole_state(optimizer, schedule), state, keep=1)
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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "given",
    [
        {"lr": 1e-6, "encoder_lr_multiplier": 0.5, "weight_decay": 0.3, "beta2": 0.5},
        {"steps": 40},
        {"schedule": "constant"},
    ],
)
def test_rates_and_decay_are_those_that_a_run_goes_on_with(tmp_path, given, optimizer):
    config = OptimizationConfig(steps=10, warmup=0.2, optimizer=optimizer)
    task, changed = ToyTask(), replace(config, **given)
    folder = save_checkpoint(
        tmp_path, task, whole_state(*trained(task, config, steps=9)), state_at(9), keep=1
    )
    moments, schedule = trained(ToyTask(), changed, steps=0)
    load_optimizer(folder, moments, schedule)
    expected, position = trained(ToyTask(), changed, steps=9)
    for _ in range(2):
        for ours, theirs in zip(moments.param_groups, expected.param_groups, strict=True):
            assert {**ours, "params": 0} == {**theirs, "params": 0}
        for each in (moments, schedule, expected, position):
            each.step()


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, state_at(step, best=min(step, 2)))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]
    newest, state, damaged = find_checkpoint(tmp_path)
    assert newest.name == "step-00000005" and not damaged
    assert best_checkpoint(tmp_path, state).name == "step-00000002"


def test_a_checkpoint_names_the_best_one_that_lies_beside_it(tmp_path, monkeypatch):
    """Killed at any file operation of a save, the newest state's best weights are there."""
    for step in (1, 2):
        save(tmp_path, state_at(step, best=1), keep=1)
    operations = ("rename", "replace", "mkdir", "unlink", "rmdir")
    for stop_after in range(1, 200):
        run = tmp_path / f"killed-{stop_after}"
        shutil.copytree(tmp_path / "checkpoints", run / "checkpoints")
        left = iter(range(stop_after))
        with monkeypatch.context() as patched:
            for name in operations:
                patched.setattr(os, name, dies_after(left, getattr(os, name)))
            try:
                save(run, state_at(3, best=3), keep=1)
            except Killed:
                finished = False
            else:
                finished = True
        _, state, _ = find_checkpoint(run)
        best_checkpoint(run, state)
        assert state.best["step"] == (1 if state.step == 2 else 3)
        if finished:
            break
    assert 4 < stop_after < 100


def test_equal_states_are_equal_bytes(tmp_path):
    """Whether an optimizer's state was computed or loaded."""
    task, state = ToyTask(), state_at(3)
    optimizer, schedule = trained(task)
    first = save_checkpoint(tmp_path / "a", task, whole_state(optimizer, schedule), state, keep=1)
    other = ToyTask()
    moments, position = trained(other)
    load_weights(first, other)
    load_optimizer(first, moments, position)
    state.seconds = 99.0
    second = save_checkpoint(tmp_path / "b", other, whole_state(moments, position), state, keep=1)
    names = {path.name for path in first.iterdir()}
    assert names == {"model.safetensors", "optimizer.pt", "state.json", "SHA256SUMS", "clock.json"}
    for name in names - {"clock.json"}:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert load_state(second).seconds == 99.0
    (second / "clock.json").write_text("[]")
    assert load_state(second).seconds == 0.0, "the clock decides nothing"


def flipped(data: bytes) -> bytes:
    return data[:9] + bytes([data[9] ^ 1]) + data[10:]


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "swapped": lambda path: shutil.copy(path.parent.with_name("step-00000001") / path.name, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", "SHA256SUMS"])
def test_damage_is_found_and_the_checkpoint_before_it_is_taken(tmp_path, name, damage):
    other = ToyTask()
    torch.nn.init.ones_(other.mix.weight)
    optimizer, schedule = trained(other)
    optimizer.step()
    save_checkpoint(tmp_path, other, whole_state(optimizer, schedule), state_at(1), keep=3)
    whole, damaged = save(tmp_path, state_at(2), keep=3), save(tmp_path, state_at(3), keep=3)
    DAMAGES[damage](damaged / name)
    found, state, told = find_checkpoint(tmp_path)
    assert found == whole and state.step == 2 and len(told) == 1
    assert str(damaged) in told[0] and "\n" not in told[0]
    assert name in told[0] or name == "SHA256SUMS"
    set_aside_newer(tmp_path, found)
    assert find_checkpoint(tmp_path) == (whole, state, []) and not damaged.exists()
    assert (damaged.parent / f"damaged-{damaged.name}").is_dir(), "set aside, not deleted"


def test_folders_that_changed_places_are_damage(tmp_path):
    one, two = (save(tmp_path, state_at(step)) for step in (1, 2))
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    with pytest.raises(ValueError, match=r"no checkpoint .* is whole, .* holds the checkpoint of"):
        find_checkpoint(tmp_path)


def test_a_checkpoint_from_before_there_were_sums_is_read(tmp_path):
    folder = save(tmp_path, state_at(1))
    state = json.loads((folder / "state.json").read_text())
    for name in ("SHA256SUMS", "clock.json"):
        (folder / name).unlink()
    (folder / "state.json").write_text(json.dumps({**state, "seconds": 7.0}))
    assert load_state(folder).seconds == 7.0


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
    with pytest.raises(ValueError, match=r"holds no checkpoint$"):
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


@pytest.mark.parametrize("writer", ["save_file", "_save_moments", "_write_json"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, writer):
    save(tmp_path, state_at(1), keep=1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, writer, full)
    with pytest.raises(ValueError, match=r"step-00000002.*No space left.*step-00000001 is whole"):
        save(tmp_path, state_at(2), keep=1)
    assert find_checkpoint(tmp_path)[0].name == "step-00000001"
    load_weights(find_checkpoint(tmp_path)[0], ToyTask())
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))


def test_a_folder_that_cannot_take_its_place_leaves_the_older_one(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with replaced_folder(target) as temporary:
        (temporary / "old").touch()

    def fails(source, place, renamed=os.rename):
        if Path(source).name == ".tmp-model":
            raise OSError(5, "Input/output error")
        renamed(source, place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fails)
        with pytest.raises(OSError, match="Input/output"), replaced_folder(target) as temporary:
            (temporary / "new").touch()
    assert [path.name for path in target.iterdir()] == ["old"]
    killed = tmp_path / ".tmp-replaced-model"  # what a killed process had no time to delete
    killed.mkdir()
    (killed / "older").touch()
    with replaced_folder(target) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


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
    assert left == ["step-00000001"]


def test_folders_that_a_run_cannot_write_into(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must name the folder that the run writes into"):
        check_run_folder(RunConfig(out=""))
    with pytest.raises(ValueError, match="exclude each other"):
        check_run_folder(RunConfig(out=str(tmp_path), resume=True, overwrite=True))
    with pytest.raises(ValueError, match=r"file is a file; --run\.out must name a folder"):
        check_run_folder(RunConfig(out=str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", {"x": 1}),
        ("step", True),
        ("seed", "0"),
        ("best", {"step": "4"}),
        ("best", 7),
        ("window", []),
        ("seconds", None),
        ("a\nb", 1),
    ],
)
def test_a_state_with_a_value_of_another_type(tmp_path, field, value):
    folder = save(tmp_path, state_at(4))
    path = folder / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1.0, field: value}))
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"state\.json is damaged") as error:
        load_state(folder)
    assert "\n" not in str(error.value)


def test_a_clock_of_a_number_without_end_counts_as_none(tmp_path):
    folder = save(tmp_path, state_at(4))
    (folder / "clock.json").write_text(json.dumps({"seconds": 10**400}))
    assert load_state(folder).seconds == 0.0


def test_a_torch_file_that_could_not_be_written(tmp_path, monkeypatch):
    def fails(*arguments):
        raise RuntimeError("unexpected pos 64 vs 0\nand more")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(ValueError, match=r"cannot write optimizer\.pt: unexpected pos 64") as error:
        save(tmp_path, state_at(4))
    assert "\n" not in str(error.value)


def test_a_checkpoint_from_before_the_order_was_noted_goes_on_in_any(tmp_path):
    folder = save(tmp_path, replace(state_at(4), order="data.bucket_steps 4"))
    assert load_state(folder).order == "data.bucket_steps 4"
    content = json.loads((folder / "state.json").read_text())
    del content["order"]
    (folder / "state.json").write_text(json.dumps(content | {"seconds": 1.0}))
    (folder / "SHA256SUMS").unlink()
    state = load_state(folder)
    assert state.order is None
    state.refuse_other(replace(state_at(0), order="data.bucket_steps 2"), accept_other_data=False)


def test_sums_that_are_no_text(tmp_path):
    folder = save(tmp_path, state_at(4))
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="SHA256SUMS is not what was written"):
        load_state(folder)
