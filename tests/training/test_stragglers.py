"""Three processes that take turns at one store of torch, with a clock of the test's own."""

import threading
from contextlib import nullcontext

import pytest
from torch.distributed import HashStore

from vilta.training import stragglers
from vilta.training.stragglers import BEAT, LOST, PATIENCE, Watch


class Group:
    """Processes that have begun as many collectives as ``begun`` says, and what they say."""

    def __init__(self, begun):
        self.begun, self.said, self.now = dict(enumerate(begun)), [], 1000.0
        store = HashStore()
        self.watches = [
            Watch(
                store,
                rank,
                len(begun),
                begun=lambda rank=rank: self.begun[rank],
                say=lambda text, rank=rank: self.said.append((rank, text)),
                clock=lambda: self.now,
            )
            for rank in self.begun
        ]

    def pass_time(self, seconds, stopped=()):
        """Return what was said, and after how many seconds."""
        began, self.said = self.now, []
        while self.now < began + seconds:
            for watch in self.watches:
                if watch.rank not in stopped:
                    watch.turn()
            if self.said:
                return self.said, self.now - began
            self.now += BEAT
        return [], seconds


@pytest.mark.parametrize(("stopped", "speaks"), [(2, 0), (0, 1)])
def test_a_stopped_process_is_named_once_within_30_seconds_by_the_first_of_the_others(
    stopped, speaks
):
    group = Group([7, 7, 7])
    assert group.pass_time(7200) == ([], 7200), "all are at work on something long"
    [(rank, text)], seconds = group.pass_time(100, [stopped])
    assert rank == speaks and seconds <= 30
    assert text.startswith(f"the others wait for process {stopped} (pid ")
    assert "no sign of life" in text
    assert group.pass_time(7200, [stopped])[0] == []
    said, seconds = group.pass_time(100)
    assert said == [(speaks, f"process {stopped} goes on")] and seconds <= 2 * BEAT
    assert group.pass_time(7200)[0] == []


def test_one_that_was_stopped_before_its_first_sign_is_named():
    [(rank, text)], _ = Group([0, 0, 0]).pass_time(100, [1])
    assert rank == 0 and text.startswith("the others wait for process 1")


def test_two_stopped_ones_are_named():
    said, _ = Group([3, 3, 3]).pass_time(100, [0, 2])
    assert [text.split(" (")[0] for _, text in said] == [
        "the others wait for process 0",
        "the others wait for process 2",
    ]


def test_a_process_at_work_that_does_not_come_is_named_until_it_comes():
    group = Group([8, 7, 8])
    [(rank, text)], seconds = group.pass_time(100)
    assert rank == 0 and "process 1 (pid " in text and "at work" in text
    assert PATIENCE < seconds <= 30
    group.begun = {0: 8, 1: 8, 2: 8}
    assert group.pass_time(7200)[0] == [(0, "process 1 goes on")]


def test_nobody_is_named_who_comes_within_the_patience():
    group = Group([0, 0, 0])
    for step in range(50):
        group.begun = {0: step + 1, 1: step, 2: step + 1}
        assert group.pass_time(PATIENCE - BEAT)[0] == []


def test_threads_give_the_signs_and_one_that_has_left_is_not_waited_for():
    group = Group([1, 1, 1])
    with group.watches[2]:
        assert any(thread.name == "stragglers" for thread in threading.enumerate())
    assert not any(thread.name == "stragglers" for thread in threading.enumerate())
    assert group.pass_time(7200, stopped=[2])[0] == []


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RuntimeError("Connection reset by peer"), [LOST]),
        (ValueError("of the user"), []),
        (None, []),
    ],
)
def test_an_error_of_torch_leaves_the_launcher_time_to_see_who_was_lost(error, waits, monkeypatch):
    slept = []
    monkeypatch.setattr(stragglers.time, "sleep", slept.append)
    watch = Group([1]).watches[0]
    with pytest.raises(type(error)) if error else nullcontext(), watch:
        if error:
            raise error
    assert slept == waits
