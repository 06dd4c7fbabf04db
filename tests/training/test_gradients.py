"""However a step is cut into micro-batches and processes, its gradient is that of one batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sharing_case
import torch
from accelerate import Accelerator
from pretraining_case import make_task
from sharing_case import PAIRS, cut, step, whole

from vilta.objectives import matching
from vilta.training.gradients import StepGradient

OBJECTIVES = {
    "vilta": dict(negatives="off"),
    "meter": dict(negatives="off", soft_labels="none", itc_weight=0.0),
    "late": dict(mlm_start=3, itm_start=3),
    "text alone": dict(negatives="off", itc_weight=0.0, mlm_weight=0.0, itm_start=3),
    "albef": dict(negatives="off", soft_labels="momentum", fusion="cross-attention"),
}


def same(found, expected, tolerance=1e-5):
    """Compare what is found in both; the numbers of micro-batches add up to the whole's."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name, equal_nan=True)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accumulation_is_one_large_batch(objective, monkeypatch):
    monkeypatch.setattr(matching, "gumbel_like", torch.zeros_like)
    accelerator, settings = Accelerator(cpu=True), OBJECTIVES[objective]
    expected = step(make_task(**settings), accelerator, 1)
    for accumulate in (2, 4):
        same(step(make_task(**settings), accelerator, accumulate), expected)


def test_a_step_without_a_known_word_learns_from_the_rest():
    """Captions of emoji alone, say: no word is masked in any micro-batch."""
    task = make_task(negatives="off")
    batch = replace(whole(task), masked_positions=torch.zeros(0, dtype=torch.long))
    parts = [cut(batch, start, start + 4) for start in (0, 4)]
    reports = StepGradient(task, Accelerator(cpu=True), torch.float32, 2).add(parts, [0, 1])
    for report in reports:
        assert report["loss"].isfinite() and report["mlm"] == 0 < report["itc"]


def test_contrast_with_a_queue_draws_its_negatives_from_all_pairs():
    """Its keys are those of the micro-batch and the queue, as in ALBEF, so it is another loss."""
    settings = dict(soft_labels="momentum", itc_targets="momentum", queue_size=16)
    task = make_task(**settings)
    found = step(task, Accelerator(cpu=True), 2)
    assert all(value.isfinite().all() for n, value in found.items() if "report/" not in n)
    task.after_step()
    assert int(task.queue.place) == PAIRS, "the keys of all micro-batches"


def test_the_mean_over_micro_batches_alone_is_another_gradient(monkeypatch):
    """Else the tests around this one could not fail."""
    monkeypatch.setattr(matching, "gumbel_like", torch.zeros_like)
    expected = step(make_task(negatives="off"), Accelerator(cpu=True), 1)
    task = make_task(negatives="off")
    for i in range(2):
        task(cut(whole(task), 4 * i, 4 * i + 4)).total.div(2).backward()
    name = "model.itc_head.image.weight"
    assert (dict(task.named_parameters())[name].grad - expected[name]).abs().max() > 1e-3


def test_padding_a_batch_changes_no_loss():
    task = make_task(negatives="off", in_batch_negatives="both")
    batch = whole(task)
    longer = batch.padded(batch.input_ids.shape[1] + 3)
    losses = []
    for one in (batch, longer):
        torch.manual_seed(1)
        losses.append(task(one).metrics)
    same(losses[1], losses[0])
    ids, at = longer.input_ids.flatten(), longer.masked_positions
    assert torch.equal(ids[at], batch.input_ids.flatten()[batch.masked_positions])


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 2), (4, 1)])
def test_processes_are_one_large_batch(tmp_path, processes, accumulate, monkeypatch):
    """With the hardest negatives of the whole step; and with dropout, random draws and written
    negatives they are one process that has the same micro-batches."""
    runs = {name: (OBJECTIVES[name], accumulate, False) for name in ("vilta", "late")}
    runs["random"] = ({}, accumulate, True)
    under_torchrun(processes, {str(tmp_path / name): run for name, run in runs.items()})
    alone, cuts = Accelerator(cpu=True), processes * accumulate
    assert PAIRS % cuts == 0
    for name, (settings, _, dropout) in runs.items():
        with monkeypatch.context() as patched:
            if not dropout:
                patched.setattr(matching, "gumbel_like", torch.zeros_like)
            expected = step(make_task(**settings), alone, cuts if dropout else 1, dropout=dropout)
        every = [torch.load(tmp_path / name / f"rank{rank}.pt") for rank in range(processes)]
        gradients = {n: t for n, t in expected.items() if not n.startswith("report/")}
        for found in every:
            same({n: t for n, t in found.items() if n in gradients}, gradients)
        for report in expected.keys() - gradients:
            mean = torch.stack([found[report] for found in every]).mean()
            assert mean.item() == pytest.approx(expected[report].item(), abs=1e-5, nan_ok=True)


def test_weights_in_parts_have_the_gradient_of_one_large_batch(tmp_path, monkeypatch):
    """FSDP2 on two processes, in one pass and in the three of accumulation."""
    names = ("vilta", "albef")
    runs = {
        f"{name}-{accumulate}": (OBJECTIVES[name], accumulate, False, "shard")
        for name in names
        for accumulate in (1, 2)
    }
    under_torchrun(2, {str(tmp_path / name): run for name, run in runs.items()})
    monkeypatch.setattr(matching, "gumbel_like", torch.zeros_like)
    for name in names:
        expected = step(make_task(**OBJECTIVES[name]), Accelerator(cpu=True), 1)
        gradients = {n: t for n, t in expected.items() if not n.startswith("report/")}
        for folder in (tmp_path / f"{name}-1", tmp_path / f"{name}-2"):
            for rank in range(2):
                found = torch.load(folder / f"rank{rank}.pt")
                same({n: t for n, t in found.items() if n in gradients}, gradients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_in_parts_on_a_gpu_have_the_gradient_of_whole_ones(tmp_path, monkeypatch):
    """FSDP2 under NCCL; one process is what one GPU allows."""
    runs = {
        str(tmp_path / f"{accumulate}"): ({}, accumulate, False, "shard") for accumulate in (1, 2)
    }
    under_torchrun(1, runs, device="cuda")
    monkeypatch.setattr(matching, "gumbel_like", torch.zeros_like)
    expected = step(make_task(), Accelerator(cpu=True), 1)
    gradients = {n: t for n, t in expected.items() if not n.startswith("report/")}
    for out in runs:
        found = torch.load(Path(out) / "rank0.pt", map_location="cpu")
        same({n: t for n, t in found.items() if n in gradients}, gradients, tolerance=1e-4)


def test_negatives_come_from_the_machine_and_contrast_from_all(tmp_path):
    """Two machines of two processes are two of one that has twice as many micro-batches."""
    found = {}
    for processes, accumulate in ((4, 1), (2, 2)):
        out = tmp_path / str(processes)
        under_torchrun(processes, {str(out): ({}, accumulate, True)}, on_each=processes // 2)
        found[processes] = [torch.load(out / f"rank{rank}.pt") for rank in range(processes)]
    gradients = {n: t for n, t in found[2][0].items() if not n.startswith("report/")}
    for other in [found[2][1], *found[4]]:
        same({n: t for n, t in other.items() if n in gradients}, gradients)
    one = step(make_task(), Accelerator(cpu=True), 4, dropout=True)
    for every in found.values():
        contrast = torch.stack([result["report/itc"] for result in every]).mean()
        assert contrast.item() == pytest.approx(one["report/itc"].item(), abs=1e-5)


def under_torchrun(processes: int, runs: dict, on_each: int = 0, device: str = "cpu") -> None:
    """Run the steps of ``sharing_case``, ``on_each`` processes on what counts as a machine."""
    for out in runs:
        Path(out).mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", sharing_case.__file__]
    root = Path(__file__).parents[2]
    paths = [str(root / "src"), str(root / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*command, json.dumps(runs), str(on_each), device],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
