"""A step asks the device for no number and no size, and torch.compile follows it whole."""

import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from pretraining_case import make_batch, make_task
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
WAITING = (
    ATEN._local_scalar_dense.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN._unique2.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.equal.default,
)
INDEXING = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)
"""A mask of truth values as index gives a size that depends on the data."""
OBJECTIVES = {
    "vilta": {},
    "albef": dict(
        soft_labels="momentum", negatives="off", alpha_ramp_steps=5, itc_targets="momentum",
        queue_size=8, matching_mean="rows",
    ),
    "meter": dict(soft_labels="none", negatives="off", itc_weight=0.0),
    "late": dict(mlm_start=2, itm_start=4, hardness_ramp_steps=3),
    "controls": dict(soft_labels="shuffled", negative_generator="frozen"),
    "clean": dict(teacher_view="clean", negatives="soft_label", top_k=5, max_changes=2),
}  # fmt: skip


READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Waits(TorchDispatchMode):
    """Collects the operations for whose result a program must wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        indices = args[1] if function in INDEXING else ()
        by_mask = any(i is not None and i.dtype == torch.bool for i in indices)
        if function in WAITING or by_mask:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Collects the methods of a tensor that bring it to Python; some dispatch nothing on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in READING:
            self.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits():
    x = torch.arange(3)
    for wait in (
        lambda: bool(x[0] > 1),
        lambda: x.tolist(),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: x[0].item(),
        lambda: torch.equal(x, x + 1),
        lambda: x.numpy(),
    ):
        with Waits() as waits, Reads() as reads:
            wait()
        assert waits.found + reads.found
    with Waits() as waits, Reads() as reads:
        x[torch.tensor([1, 2])].sum() + x.where(x > 1, 0).amax()
    assert waits.found + reads.found == []


@pytest.mark.parametrize(
    ("fusion", "text"),
    [
        *itertools.product(["co-attention", "cross-attention"], ["bert", "roberta", "modernbert"]),
        ("text-layers", "bert"),
    ],
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_reads_nothing_back(objective, fusion, text):
    task = make_task(text=text, fusion=fusion, **OBJECTIVES[objective])
    batch = make_batch(task)
    for _ in range(2):
        with Waits() as waits, Reads() as reads:
            losses = task(batch)
            losses.total.backward()
            task.after_step()
        assert waits.found + reads.found == []


def test_the_objectives_begin_again_where_a_checkpoint_stood():
    task = make_task(mlm_start=2, itm_start=4)
    batch = make_batch(task)
    seen = []
    for _ in range(5):
        seen.append({"mlm", "itm"} & set(task(batch).metrics))
        task.after_step()
    assert seen == [set(), set(), {"mlm"}, {"mlm"}, {"mlm", "itm"}]
    other = make_task(mlm_start=2, itm_start=4)
    other.load_state_dict(task.state_dict())
    assert {"mlm", "itm"} <= set(other(batch).metrics)


def test_a_step_knows_the_count_from_python_alone():
    """The tensor is for checkpoints: a step that asked it would wait for the device."""
    ramps = dict(alpha_ramp_steps=5, hardness_ramp_steps=5)
    task, other = (make_task(mlm_start=1, itm_start=2, **ramps) for _ in range(2))
    batch = make_batch(task)
    for step in range(4):
        assert (task.steps_taken, int(task.step)) == (step, step)
        other.step.fill_(99)
        losses = []
        for one in (task, other):
            torch.manual_seed(step)
            losses.append(one(batch).total.item())
            one.after_step()
        assert losses[0] == losses[1]


COMPILED = """
import torch
from pretraining_case import CAPTIONS, make_batch, make_task
task, graphs = make_task(alpha_ramp_steps=5, hardness_ramp_steps=5), []
def count(graph, inputs):
    graphs.append(graph)
    return graph.forward
step = torch.compile(task, backend=count, fullgraph=True)
batches = [make_batch(task, [CAPTIONS[i], CAPTIONS[4], CAPTIONS[4]]) for i in (0, 1, 4)]
assert len({batch.input_ids.shape[1] for batch in batches}) == 3
for i, batch in enumerate(batches):
    losses = []
    for run in (task, step):
        torch.manual_seed(i)
        losses.append(run(batch).total.item())
    assert abs(losses[0] - losses[1]) < 1e-4, losses
    task.after_step()
print(len(graphs), "graphs")
"""


def test_a_step_is_one_graph_whatever_the_length_of_its_captions():
    """In a process of its own: here, every shape is checked at run time, which cannot compile."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["2", "graphs"], "one for the first length, one for any"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_does_not_wait_for_a_gpu(precision):
    task = make_task()
    batch = make_batch(task).to("cuda")
    task.cuda()
    compute = nullcontext()
    if precision == torch.bfloat16:
        compute = torch.autocast("cuda", precision)
    task(batch).total.backward()  # libraries start
    torch.cuda.set_sync_debug_mode("error")
    try:
        with compute:
            losses = task(batch)
        losses.total.backward()
        task.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
