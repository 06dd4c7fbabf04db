"""The loop on a toy task: what it writes, how it stops, goes on, chooses and refuses."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import toy_training
from safetensors.torch import load_file
from toy_training import Killed, ToyTask, dies_after, metrics, train_toy

from vilta.config import PretrainConfig
from vilta.config.yaml_file import load_yaml
from vilta.training.checkpoint import find_checkpoint

ONE_BAD = [f"toy#{toy_training.sample_at(13)}"]
"""In the second step, of one of two processes."""


def test_a_run_learns_and_leaves_everything_in_its_folder(tmp_path, capsys):
    summary = train_toy(tmp_path / "run", steps=60, save_every=25, evaluate_every=30)
    assert (summary.step, summary.stopped, summary.skipped) == (60, False, 0)
    lines = [line for line in metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert lines[-1]["loss"] == lines[-1]["loss/mlm"]
    assert "share/never" not in lines[-1], "a share of nothing is left out, not NaN"
    assert lines[0]["epoch"] == pytest.approx(5 * 8 / 37)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and first["device"].startswith("1 x ") and first["precision"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "model"}
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    screen = capsys.readouterr().err
    assert "float32" in screen and "step 60/60" in screen and "samples/s" in screen


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [2, 6, 11, 24])  # calls: two a step, so steps 1, 3, 6, 12
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, capsys, stop_at, optimizer):
    whole, pieces = ToyTask(), ToyTask()
    train_toy(tmp_path / "whole", whole, optimizer=optimizer)
    stopped = train_toy(tmp_path / "pieces", ToyTask(stop_at=stop_at), optimizer=optimizer)
    assert stopped.stopped and stopped.step == (stop_at + 1) // 2
    with pytest.raises(SystemExit) as end:
        stopped.exit_if_stopped()
    assert end.value.code == 130, "make and scripts see that there is no model yet"
    assert "vilta toy --run.resume" in capsys.readouterr().err
    assert not (tmp_path / "pieces" / "model").exists()
    torch.manual_seed(stop_at)  # whatever the new process did before must not matter
    assert not train_toy(tmp_path / "pieces", pieces, resume=True, optimizer=optimizer).stopped
    assert metrics(tmp_path / "pieces") == metrics(tmp_path / "whole")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, pieces.state_dict()[name]), name


def test_a_run_that_goes_on_with_a_lower_rate_takes_smaller_steps(tmp_path):
    fixed = {"evaluate_every": 0, "log_every": 1, "schedule": "constant", "warmup": 0.0}
    train_toy(tmp_path, ToyTask(stop_at=12), **fixed)
    before = load_file(find_checkpoint(tmp_path)[0] / "model.safetensors")["mix.weight"]
    task = ToyTask()
    train_toy(tmp_path, task, resume=True, lr=1e-9, **fixed)
    assert 0 < (task.mix.weight - before).abs().max() < 1e-6
    assert [line["lr"] for line in metrics(tmp_path) if "lr" in line] == 6 * [1e-2] + 6 * [1e-9]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    train_toy(tmp_path / "whole")
    killed = ToyTask()
    killed.after_step = lambda: 1 / 0 if killed.calls == 14 else ToyTask.after_step(killed)
    with pytest.raises(ZeroDivisionError):
        train_toy(tmp_path / "killed", killed)
    assert find_checkpoint(tmp_path / "killed")[0].name == "step-00000006"
    train_toy(tmp_path / "killed", resume=True)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")


def test_a_start_killed_at_any_file_operation_starts_again_and_ends_equal(tmp_path):
    """With `resume: auto`, in a new folder and where `overwrite` was removing an old run."""
    train_toy(tmp_path / "whole", **SHORT)
    (tmp_path / "old").mkdir()
    train_toy(tmp_path / "old", **{**SHORT, "steps": 2, "seed": 1})
    (tmp_path / "old" / "evaluation-val.json").write_text('{"run": "", "data": "", "metrics": {}}')
    outcomes = Counter()
    for overwrite in (False, True):
        for operation in range(1, 300, EVERY):
            out = tmp_path / f"{overwrite}-{operation}"
            if overwrite:
                shutil.copytree(tmp_path / "old", out)
            left = killed_after(operation, out, overwrite=overwrite, **SHORT)
            outcomes[left] += 1
            if left == "finished":
                break
            saved = [*out.glob("checkpoints/step-*/state.json")]
            if saved and json.loads(saved[0].read_text())["seed"] == 1:
                with pytest.raises(ValueError, match="seed 1"):  # the old run, and it is whole
                    train_toy(out, resume="auto", **SHORT)
                train_toy(out, overwrite=True, **SHORT)
            else:
                train_toy(out, resume="auto", **SHORT)
            assert metrics(out) == metrics(tmp_path / "whole")
            assert same_files(out / "model", tmp_path / "whole" / "model")
            assert same_files(out / "checkpoints", tmp_path / "whole" / "checkpoints")
            assert not list(out.rglob(".*")), "nothing half written is left"
    assert outcomes["killed"] > 60 / EVERY and outcomes["finished"] == 2


EVERY = int(os.environ.get("VILTA_TEST_EVERY", "5"))
"""At one of so many file operations; 1 takes a minute."""
SHORT = {"steps": 4, "save_every": 2, "evaluate_every": 4, "log_every": 1, "keep": 1}


def killed_after(operation, out, **settings) -> str:
    """Train in a process that ends, as it were, before its n-th change of a folder."""
    left = iter(range(operation - 1))
    names = ("rename", "replace", "mkdir", "unlink", "rmdir", "open")
    with pytest.MonkeyPatch.context() as patched:
        for name in names:
            patched.setattr(os, name, dies_after(left, getattr(os, name)))
        try:
            train_toy(out, **settings)
        except Killed:
            return "killed"
    return "finished"


def same_files(one: Path, two: Path) -> bool:
    """Whether two folders hold the same bytes, but for the clock."""

    def content(folder):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "clock.json"
        }

    return content(one) == content(two)


def test_a_killed_start_needs_no_choice(tmp_path):
    """Neither a plain start nor `auto` points at the other; a finished run is not started again."""
    out = tmp_path / "run"
    for settings in ({}, {"resume": "auto"}):
        out.mkdir(exist_ok=True)
        for name in ("config.yaml", ".tmp-config.yaml", "metrics.jsonl"):
            (out / name).write_text("{}")
        with pytest.raises(ValueError, match=r"no checkpoint.*--run.resume auto starts"):
            train_toy(out, resume=True)
        assert train_toy(out, steps=2, **settings).step == 2
        shutil.rmtree(out / "checkpoints")
        with pytest.raises(ValueError, match=r"holds what a run has left.*--run.overwrite"):
            train_toy(out, steps=2, **settings)
        assert (out / "model").is_dir()
        shutil.rmtree(out)


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vilta.locking import only_writer\n"
        "with only_writer(Path(sys.argv[1]), 'x'):\n    print(flush=True)\n    time.sleep(600)"
    )
    train_toy(tmp_path / "run", steps=2)
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        for way in ({"resume": True}, {"resume": "auto"}, {"overwrite": True}):
            with pytest.raises(ValueError, match=f"written by process {holder.pid}"):
                train_toy(tmp_path / "run", **way)
        assert before == sorted(str(path) for path in tmp_path.rglob("*"))
        holder.kill()
    train_toy(tmp_path / "run", steps=3, resume=True)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_taken(tmp_path, capsys):
    train_toy(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    *_, before, newest = sorted((tmp_path / "damaged" / "checkpoints").iterdir())
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-100])
    train_toy(tmp_path / "damaged", resume=True)
    said = capsys.readouterr().err
    assert f"optimizer.pt is not what was written; going on from {before.name}" in said
    assert metrics(tmp_path / "damaged") == metrics(tmp_path / "whole")


def test_lost_best_weights_are_told_and_chosen_anew(tmp_path, capsys):
    task = ToyTask()
    task.scores = [0.9, 0.1]
    train_toy(tmp_path, task, steps=6, evaluate_every=2, keep=1, stop_at=12)
    (tmp_path / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"")
    task = ToyTask()
    task.scores = [0.2, 0.3]
    summary = train_toy(tmp_path, task, steps=8, evaluate_every=2, keep=1, resume=True)
    assert "the best weights are lost" in capsys.readouterr().err
    assert summary.best["step"] == 8


def test_precision_and_frozen_parts(tmp_path, capsys):
    task, before = ToyTask(), ToyTask()
    train_toy(tmp_path, task, precision="bf16")
    assert "bf16" in capsys.readouterr().err
    assert all(p.dtype == torch.float32 for p in task.parameters())
    assert torch.equal(task.teacher.weight, before.teacher.weight)
    assert not torch.equal(task.average, before.average), "after_step was not called"


def test_a_resumed_run_keeps_its_precision_unless_told_otherwise(tmp_path, capsys):
    train_toy(tmp_path, steps=2, precision="bf16")
    train_toy(tmp_path, steps=4, precision="auto", resume=True)
    assert "bf16 (as the run began)" in capsys.readouterr().err
    train_toy(tmp_path, steps=6, precision="float32", resume=True)
    train_toy(tmp_path, steps=8, precision="auto", resume=True)
    assert "float32 (as the run began)" in capsys.readouterr().err


def test_a_resumed_run_tells_which_settings_are_others(tmp_path, capsys):
    train_toy(tmp_path, steps=2)
    train_toy(tmp_path, steps=2, resume=True)
    assert "other settings" not in capsys.readouterr().err
    train_toy(tmp_path, steps=4, lr=1e-3, resume="auto")
    told = "other settings than before: optimization.steps: 2 -> 4, optimization.lr: 0.01 -> 0.001"
    assert told in " ".join(capsys.readouterr().err.split())
    (tmp_path / "config.yaml").write_text("{")
    train_toy(tmp_path, steps=5, lr=1e-3, resume=True)
    train_toy(tmp_path, steps=5, lr=1e-3, resume=True)
    assert "other settings" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> tuple[Path, str]:
    """The folders of two runs under torchrun, and what the processes printed."""
    out = tmp_path_factory.mktemp("two")
    every = [f"toy#{i}" for i in range(toy_training.SAMPLES)]
    runs = {
        str(out / "whole"): {"accumulate": 2, "steps": 8},
        str(out / "parts"): {"accumulate": 2, "steps": 8, "shard": True},
        str(out / "late"): {"accumulate": 2, "steps": 8, "pooler_from": 3},
        str(out / "broken"): {"accumulate": 1, "broken": every},
        str(out / "one"): {"accumulate": 1, "steps": 4, "broken": ONE_BAD},
        str(out / "asked"): {"accumulate": 1, "steps": 8, "stop_first": 3},
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        [*command, toy_training.__file__, json.dumps(runs)],
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr
    return out, done.stdout


@pytest.mark.parametrize("weights", ["whole", "parts"])
def test_two_processes_train_what_one_process_trains(tmp_path, two_processes, weights):
    """To 1e-6 in float32: only the order in which gradients are summed differs."""
    one, two = ToyTask(), two_processes[0] / weights
    train_toy(tmp_path, one, accumulate=4, steps=8)
    for rank in range(2):
        weights = torch.load(two / f"rank{rank}.pt", weights_only=True)
        for name, tensor in learned(one):
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6, msg=name)
    for one_line, two_line in zip(metrics(tmp_path), metrics(two), strict=True):
        assert one_line.get("loss") == pytest.approx(two_line.get("loss"), abs=1e-6)
    # One process goes on where two have stopped: the global batch is the same.
    goes_on = ToyTask()
    train_toy(two, goes_on, accumulate=4, steps=10, resume=True)
    train_toy(tmp_path, one, accumulate=4, steps=10, resume=True)
    for name, tensor in learned(one):
        torch.testing.assert_close(goes_on.state_dict()[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_two_processes_follow_when_a_part_begins_to_learn(tmp_path, two_processes):
    one = ToyTask(pooler_from=3)
    train_toy(tmp_path, one, accumulate=4, steps=8)
    assert not torch.equal(one.pooler.weight, ToyTask().pooler.weight)
    for rank in range(2):
        weights = torch.load(two_processes[0] / "late" / f"rank{rank}.pt", weights_only=True)
        for name, tensor in learned(one):
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6, msg=name)


def learned(task):
    """The weights without the batch norm's statistics, which depend on the number of processes."""
    return [item for item in task.state_dict().items() if not item[0].startswith("seen.")]


def test_batch_norms_hold_the_mean_of_both_processes_statistics(two_processes):
    """As two norms that are averaged after each step of two micro-batches."""
    norms = [torch.nn.BatchNorm1d(3, affine=False) for _ in range(2)]
    load = toy_training.loader_for(batch_size=4, accumulate=2)
    batches = [load(start_step=0, rank=rank, world_size=2) for rank in range(2)]
    for _ in range(8):
        for norm, own in zip(norms, batches, strict=True):
            for _ in range(2):
                norm(next(own).words[:, :3].float())
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(norm, name) for norm in norms]).mean(dim=0)
            for norm in norms:
                getattr(norm, name).copy_(mean)
    for rank in range(2):
        weights = torch.load(two_processes[0] / "whole" / f"rank{rank}.pt", weights_only=True)
        for name in ("running_mean", "running_var"):
            expected = getattr(norms[0], name)
            torch.testing.assert_close(weights[f"seen.{name}"], expected)


def test_both_processes_stop_after_bad_batches(two_processes):
    assert two_processes[1].count("refused: loss or gradient was not finite in 3 steps") == 2


def test_what_one_process_finds_or_is_asked_counts_for_both(two_processes):
    out, printed = two_processes
    for rank in range(2):
        assert f"one rank {rank}: step 4, stopped False, skipped 1" in printed
        assert f"asked rank {rank}: step 3, stopped True, skipped 0" in printed
    for name in ("one", "asked"):
        first, second = (
            torch.load(out / name / f"rank{rank}.pt", weights_only=True) for rank in range(2)
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert all(tensor.isfinite().all() for tensor in first.values())


def test_one_bad_batch_is_skipped_counted_and_named(tmp_path):
    bad = toy_training.sample_at(13)  # second micro-batch of the second step
    task = ToyTask(broken=(f"toy#{bad}",))
    summary = train_toy(tmp_path, task, steps=4)  # 32 of 37 samples: the bad one comes once
    assert summary.skipped == 1 and summary.step == 4
    assert all(p.isfinite().all() for p in task.parameters())
    skipped = [line for line in metrics(tmp_path) if "skipped" in line]
    assert [line["step"] for line in skipped] == [2]
    rows = [toy_training.sample_at(i) for i in range(12, 16)]
    assert skipped[0]["skipped"] == [f"toy#{row}" for row in rows]


def test_task_loop_and_schedule_count_a_skipped_step_alike(tmp_path):
    task = ToyTask(broken=(f"toy#{toy_training.sample_at(13)}",))
    summary = train_toy(tmp_path, task, steps=4, log_every=1, warmup=0.5)
    assert summary.skipped == 1 and task.steps == summary.step == 4
    lines = {line["step"]: line for line in metrics(tmp_path) if "lr" in line}
    whole = tmp_path / "whole"
    train_toy(whole, steps=4, log_every=1, warmup=0.5)
    assert [lines[step]["lr"] for step in sorted(lines)] == [
        line["lr"] for line in metrics(whole) if "lr" in line
    ]
    last = find_checkpoint(tmp_path)[0] / "optimizer.pt"
    saved = torch.load(last, weights_only=True)
    assert saved["schedule"]["last_epoch"] == 4
    rates = [
        group["lr"]
        for content in (saved, torch.load(find_checkpoint(whole)[0] / "optimizer.pt"))
        for group in content["optimizer"]["param_groups"]
    ]
    assert rates[: len(rates) // 2] == rates[len(rates) // 2 :], "it steps with the same rate"


def test_clipping_is_applied(tmp_path):
    """A step of AdamW hardly depends on the length of the gradient; its moments do."""
    moments = []
    for clip in (0.0, 1e-3):
        train_toy(tmp_path / str(clip), steps=1, clip=clip, evaluate_every=0)
        source = find_checkpoint(tmp_path / str(clip))[0]
        state = torch.load(source / "optimizer.pt", weights_only=True)["optimizer"]["state"]
        squares = torch.stack([part["exp_avg"].square().sum() for part in state.values()])
        moments.append(squares.sum().sqrt().item())
    # The first moment is a tenth of the gradient.
    assert moments[1] == pytest.approx(1e-4, rel=1e-3) and moments[0] > 10 * moments[1]


def test_bad_batches_in_a_row_stop_the_run_with_their_names(tmp_path):
    task = ToyTask(broken=tuple(f"toy#{i}" for i in range(toy_training.SAMPLES)))
    with pytest.raises(ValueError, match=r"not finite in 3 steps.*up to step 3.*toy#\d+"):
        train_toy(tmp_path, task)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_run_that_learnt_nothing_says_so_and_releases_nothing(tmp_path):
    task = ToyTask(broken=tuple(f"toy#{i}" for i in range(toy_training.SAMPLES)))
    with pytest.raises(ValueError, match=r"nothing was learnt: .* in any of 2 steps; no model"):
        train_toy(tmp_path, task, steps=2)
    assert not (tmp_path / "model").exists()


def test_weights_that_the_last_step_broke_are_not_released(tmp_path):
    task = ToyTask()
    after_step = task.after_step
    task.after_step = lambda: (after_step(), task.head.bias.data.fill_(float("inf")))
    with pytest.raises(ValueError, match=r"nothing was learnt: 1 of .* first head\.bias; no model"):
        train_toy(tmp_path, task, steps=1, evaluate_every=0)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_trained_in_float32(tmp_path, dtype):
    task = ToyTask().to(dtype)
    train_toy(tmp_path, task, steps=2)
    assert {weight.dtype for weight in task.parameters()} == {torch.float32}


def test_the_best_checkpoint_is_kept_released_and_ends_a_stale_run(tmp_path, capsys):
    task = ToyTask()
    task.scores = [0.1, 0.3, 0.2, 0.25, 0.9]
    summary = train_toy(tmp_path, task, steps=40, evaluate_every=3, patience=2, keep=1)
    assert summary.step == 12 and not summary.stopped
    assert summary.best == {
        "step": 6,
        "metric": "toy/score",
        "value": 0.3,
        "metrics": {"toy/score": 0.3},
    }
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000006", "step-00000012"]
    best = load_file(tmp_path / "checkpoints" / "step-00000006" / "model.safetensors")
    released = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(released["mix"], best["mix.weight"])
    assert torch.equal(task.mix.weight, best["mix.weight"])
    assert "weights of step 6" in capsys.readouterr().err


def test_the_last_weights_are_released_where_nothing_is_to_be_chosen(tmp_path, capsys):
    task = ToyTask()
    task.scores = [0.9, 0.1]
    summary = train_toy(tmp_path, task, release="last", keep=1, patience=1)
    assert (summary.step, summary.best) == (12, None)
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-00000012"]
    last = load_file(tmp_path / "checkpoints" / "step-00000012" / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model/model.safetensors")["mix"], last["mix.weight"])
    assert "weights of step 12)" in capsys.readouterr().err


def test_a_run_that_goes_on_to_release_its_last_weights_forgets_its_best(tmp_path):
    stopped = ToyTask(stop_at=17)
    stopped.scores = [5.0, 1.0]
    train_toy(tmp_path, stopped, evaluate_every=4)
    task = ToyTask()
    task.scores = [1.0]
    summary = train_toy(tmp_path, task, evaluate_every=4, resume=True, release="last", patience=1)
    assert (summary.step, summary.best) == (12, None)
    last = load_file(tmp_path / "checkpoints" / "step-00000012" / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model/model.safetensors")["mix"], last["mix.weight"])


def test_an_unknown_best_metric_is_refused_and_nothing_is_lost(tmp_path):
    with pytest.raises(ValueError, match=r"selection-metric toy/scroe.*toy/score"):
        train_toy(tmp_path, selection_metric="toy/scroe")
    assert find_checkpoint(tmp_path)[0].name == "step-00000006"
    assert train_toy(tmp_path, resume=True).best["step"] in (6, 12)


def test_replaced_samples_are_told_at_the_end(tmp_path, capsys):
    train_toy(tmp_path / "clean", steps=1)
    assert "bad samples" not in capsys.readouterr().err
    train_toy(tmp_path / "spoilt", steps=1, bad=3)
    assert "bad samples replaced by others: 3; warnings above" in capsys.readouterr().err


def test_too_few_samples_for_a_step_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_training, "loader_for", lambda *_: lambda **_: [])
    with pytest.raises(ValueError, match="gave no batch for step 1: fewer samples than the 8"):
        train_toy(tmp_path)


def test_resume_refuses_another_optimizer(tmp_path):
    train_toy(tmp_path, steps=4)
    with pytest.raises(ValueError, match=r"another optimizer; resume with"):
        train_toy(tmp_path, resume=True, optimizer="muon")
    train_toy(tmp_path, steps=4, overwrite=True, optimizer="muon")
    with pytest.raises(ValueError, match=r"another optimizer; resume with"):
        train_toy(tmp_path, resume=True)


def test_resume_refuses_what_is_not_the_same_run(tmp_path):
    train_toy(tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"data are not those.*accept-other-data"):
        train_toy(tmp_path, resume=True, fingerprint="other")
    for accept in (False, True):
        with pytest.raises(ValueError, match="another vocabulary"):
            train_toy(tmp_path, resume=True, vocabulary="other", accept_other_data=accept)
    with pytest.raises(ValueError, match="seed 0 and 8 samples a step, not seed 0 and 16"):
        train_toy(tmp_path, resume=True, batch_size=8)
    summary = train_toy(tmp_path, resume=True, fingerprint="other", accept_other_data=True, steps=3)
    assert summary.step == 3
    train_toy(tmp_path, overwrite=True, accept_other_data=True, steps=3)
    saved = load_yaml(tmp_path / "config.yaml", PretrainConfig).run
    for flag in ("resume", "overwrite", "accept_other_data"):
        assert not getattr(saved, flag), "what was allowed once is not allowed for ever"


def test_a_folder_in_use_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(ValueError, match="must name the folder"):
        train_toy("")
    with pytest.raises(ValueError, match="no checkpoint to resume"):
        train_toy(tmp_path / "new", resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and is not a run folder"):
            train_toy(tmp_path / "photos", overwrite=overwrite)
    train_toy(tmp_path / "run", steps=2)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"holds a run; --run.resume.*--run.overwrite"):
        train_toy(tmp_path / "run", steps=1)
    assert before == sorted(str(path) for path in tmp_path.rglob("*"))
    (tmp_path / "run" / "notes.txt").touch()
    assert train_toy(tmp_path / "run", steps=1, overwrite=True).step == 1
    assert (tmp_path / "run" / "notes.txt").exists(), "overwrite deletes only what a run writes"
    assert find_checkpoint(tmp_path / "run")[0].name == "step-00000001"


def test_overwrite_deletes_what_was_measured_of_the_old_run(tmp_path):
    train_toy(tmp_path, steps=1)
    metrics = json.dumps({"run": "runs/old", "data": "data/val", "metrics": {"accuracy": 99.0}})
    for name in ("evaluation-val.json", "vqa-test.json", "benchmark-vqa.json"):
        (tmp_path / name).write_text(metrics)
    (tmp_path / "metrics.json").write_text('{"vqa/accuracy": 99.0}')
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    own = {
        "answers.json": '[{"question_id": 1, "answer": "run"}]',
        "evaluation-plan.json": '{"run": "tomorrow"}',
        "torn.json": '{"run": ',
    }
    for name, text in own.items():
        (tmp_path / name).write_text(text)
    train_toy(tmp_path, steps=1, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoints", "config.yaml", "metrics.jsonl", "model", "tensorboard", *own}


def test_checkpoints_come_by_the_clock_too(tmp_path, monkeypatch):
    """And change nothing: the losses are those of a run that saves by its steps alone."""
    clock = iter(range(0, 10_000, 60))
    with monkeypatch.context() as patched:
        patched.setattr("vilta.training.session.time.monotonic", lambda: next(clock))
        train_toy(tmp_path / "often", save_every=0, evaluate_every=0, save_minutes=1.0, keep=99)
    assert len(list((tmp_path / "often" / "checkpoints").iterdir())) > 4
    train_toy(tmp_path / "once", save_every=0, evaluate_every=0, save_minutes=0.0, keep=99)
    assert [p.name for p in (tmp_path / "once" / "checkpoints").iterdir()] == ["step-00000012"]
    assert metrics(tmp_path / "often") == metrics(tmp_path / "once")


def test_exhausted_memory_says_what_to_lower(tmp_path):
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    ):
        task = ToyTask()
        task.forward = lambda batch, error=error: (_ for _ in ()).throw(error)
        with pytest.raises(ValueError, match=r"out of memory in step 1, with 4 .*batch-size"):
            train_toy(tmp_path, task)
    task.forward = lambda batch: (_ for _ in ()).throw(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train_toy(tmp_path, task)


def test_steps_and_batches_beyond_the_data_are_said(tmp_path, capsys):
    train_toy(tmp_path / "a", steps=2)
    said = capsys.readouterr().err
    assert "0.4 epochs of 37 training samples\n" in said and "more than once" not in said
    train_toy(tmp_path / "b", steps=1, batch_size=20)
    said = capsys.readouterr().err
    assert "a step takes 40 samples, more than the 37 there are" in said
    assert "many times what teaches" not in said
