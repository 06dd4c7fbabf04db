"""How a run stops when it is asked to: at once where nothing is lost, and in any case soon."""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import time
import weakref

import pytest
import toy_training
from toy_training import ToyTask, metrics, train_toy

from vilta.training.stopping import Interrupted, StopRequest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


class Thing:
    """Something that a weak reference can be of."""


def run_that_waits(where: str, out, waiting, errors) -> None:
    """Train, and wait a minute at one place; what is told on stderr goes to a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    task = ToyTask()
    evaluate, forward, load = task.evaluate, task.forward, toy_training.loader_for

    def waits(*_):
        waiting.set()
        time.sleep(60)

    def load_slowly(*sizes):
        def batches(**place):
            for batch in load(*sizes)(**place):
                if task.calls == 8:
                    waits()
                yield batch

        return batches

    def forward_slowly(batch):
        if task.calls == 8:
            waiting.set()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no Python handler runs meanwhile
        return forward(batch)

    def waits_in_a_callback():
        thing = Thing()
        weakref.finalize(thing, waits)
        del thing  # what is raised now, in the first wait, goes nowhere
        time.sleep(60)

    if where == "evaluation":
        task.evaluate = lambda: waits() or evaluate()
    elif where == "callback":
        task.evaluate = lambda: waits_in_a_callback() or evaluate()
    elif where == "loader":
        toy_training.loader_for = load_slowly
    else:
        task.forward = forward_slowly
    train_toy(out, task, save_every=1).exit_if_stopped()


@contextlib.contextmanager
def waiting_run(tmp_path, where: str):
    """A run in a process of its own that has come to the place where it waits."""
    context = multiprocessing.get_context("fork")
    waiting = context.Event()
    place = (where, tmp_path / "run", waiting, str(tmp_path / "errors"))
    child = context.Process(target=run_that_waits, args=place)
    child.start()
    assert waiting.wait(60)
    time.sleep(0.1)
    yield child
    child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("where", "step"), [("evaluation", 6), ("callback", 6), ("loader", 4)])
def test_waiting_is_broken_off_and_nothing_is_lost(tmp_path, where, step, number):
    with waiting_run(tmp_path, where) as child:
        os.kill(child.pid, number)
        child.join(30)
        assert child.exitcode == 128 + number
    assert sorted((tmp_path / "run/checkpoints").iterdir())[-1].name == f"step-{step:08d}"
    assert not (tmp_path / "run" / "model").exists()
    assert train_toy(tmp_path / "run", resume=True).step == 12
    train_toy(tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_request_that_was_lost_counts_at_the_end_of_the_block(monkeypatch):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: lost.append(raised.exc_type))
    with StopRequest() as stop:
        with pytest.raises(Interrupted), stop.breaks():
            thing = Thing()
            reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del thing
            assert lost == [Interrupted] and reference() is None
        with pytest.raises(Interrupted), stop.breaks():
            pytest.fail("nothing that may be broken off is begun any more")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_request_ends_a_run_that_computes(tmp_path, number):
    with waiting_run(tmp_path, "step") as child:
        for _ in range(3):  # within a second, all are one: make and the terminal both send it
            os.kill(child.pid, number)
            time.sleep(0.1)
        time.sleep(1)
        assert child.is_alive()
        os.kill(child.pid, number)
        child.join(10)
        assert child.exitcode == 128 + number
    assert "ended at once; the last checkpoint is whole" in (tmp_path / "errors").read_text()
    assert train_toy(tmp_path / "run", resume=True).step == 12


def test_handlers_are_as_before_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train_toy(tmp_path, ToyTask(stop_at=3))
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
