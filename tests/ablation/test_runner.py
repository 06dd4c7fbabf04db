"""Processes that are started, fail, run out of time, and end with who started them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vilta.ablation import runner as running
from vilta.ablation.runner import Job, Runner

NAP = "import time; time.sleep(60)"
POLITE = """
import pathlib, signal, sys, time
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("saved"); sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[2]).write_text("begun")
time.sleep(60)
"""


def job(tmp_path, name, *codes, done=None):
    commands = [[sys.executable, "-c", *(code if isinstance(code, list) else [code])]
                for code in codes]  # fmt: skip
    return Job(name, commands, tmp_path / name / "log.txt", done or (lambda: None))


def test_jobs_run_in_order_and_a_failure_leaves_the_others_alone(tmp_path):
    said, done = [], []
    runner = Runner(2, 0.0, said.append)
    runner.run(
        [
            job(tmp_path, "good", "print('one')", "print('two')", done=lambda: done.append("good")),
            job(tmp_path, "bad", "raise ValueError('no such data')", "print('never')",
                done=lambda: done.append("bad")),
            job(tmp_path, "last", "import os; print(os.environ['OMP_NUM_THREADS'])",
                done=lambda: done.append("last")),
        ],
        lambda: "progress",
    )  # fmt: skip
    assert (tmp_path / "good" / "log.txt").read_text() == "one\ntwo\n"
    assert "never" not in (tmp_path / "bad" / "log.txt").read_text()
    assert runner.failed == {"bad": "ValueError: no such data"}
    assert sorted(done) == ["good", "last"]
    assert not runner.stopped


def test_the_reason_is_what_a_command_says_after_error(tmp_path):
    runner = Runner(1, 0.0, lambda _: None)
    runner.run([job(tmp_path, "a", "import sys; print('error: no such file'); sys.exit(2)")], str)
    assert runner.failed == {"a": "no such file"}


def test_the_reason_is_nothing_that_was_said_before_or_on_the_way(tmp_path):
    """The log is one for all parts and sessions, and a part that is killed cannot say why."""
    for command, why in (
        ("echo 'error: the disk is full'; exit 1", "the disk is full"),
        ("exit 3", "exit code 3"),
        ("kill -KILL $$", "ended by SIGKILL (out of memory?)"),
        ("echo 'step 400 of 540'; kill -TERM $$", "ended by SIGTERM"),
    ):
        runner = Runner(1, 0.0, lambda _: None)
        runner.run([Job("a", [["sh", "-c", command]], tmp_path / "log", lambda: None)], str)
        assert runner.failed == {"a": why}


def test_what_must_hold_is_asked_before_each_part(tmp_path):
    """A file that the parts read may be changed while the first of them runs."""
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 2:
            raise ValueError("the settings have changed")

    runner = Runner(1, 0.0, lambda _: None)
    of_two = job(tmp_path, "a", "print('one')", "print('two')", done=lambda: asked.append(9))
    runner.run([of_two._replace(check=check)], lambda: "")
    assert runner.failed == {"a": "the settings have changed"}
    assert (tmp_path / "a" / "log.txt").read_text() == "one\n"
    assert asked == [1, 1]


@pytest.mark.parametrize("error", [ValueError("no evaluation"), OSError("the disk is full")])
def test_a_job_whose_results_cannot_be_kept_fails_alone(tmp_path, error):
    def finish():
        raise error

    runner, done = Runner(1, 0.0, lambda _: None), []
    good = job(tmp_path, "b", "", done=lambda: done.append(1))
    runner.run([job(tmp_path, "a", "", done=finish), good], lambda: "")
    assert runner.failed == {"a": str(error)} and done == [1]


def test_when_the_time_is_up_a_job_may_save_and_none_follows(tmp_path):
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    done = []
    runner = Runner(1, 3 / 60, lambda _: None)
    runner.run(
        [
            job(tmp_path, "a", [POLITE, str(saved), str(begun)], done=lambda: done.append("a")),
            job(tmp_path, "b", NAP, done=lambda: done.append("b")),
        ],
        lambda: "",
    )
    assert saved.read_text() == "saved"
    assert (runner.stopped, runner.failed, done) == ("the time is up", {}, [])
    assert not (tmp_path / "b").exists()


SLOW = POLITE.replace("def stop(*_):", "def stop(*_):\n    time.sleep(1)")
DEAF = POLITE.replace("def stop(*_):", "def stop(*_):\n    return")


def test_how_long_a_job_has_run_takes_nothing_from_its_time_to_save(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "PATIENCE", 3.0)
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    runner = Runner(1, 2.5 / 60, lambda _: None)
    runner.run([job(tmp_path, "a", [SLOW, str(saved), str(begun)])], lambda: "")
    assert begun.exists() and saved.exists()


def test_a_job_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "PATIENCE", 1.0)
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    runner = Runner(1, 2.5 / 60, lambda _: None)
    asked = time.monotonic()
    runner.run([job(tmp_path, "a", [DEAF, str(saved), str(begun)])], lambda: "")
    assert begun.exists() and not saved.exists()
    assert time.monotonic() - asked < 30  # of its nap of 60
    assert (runner.stopped, runner.failed) == ("the time is up", {})


def test_a_signal_stops_the_jobs_and_is_remembered(tmp_path):
    """Ctrl-C: the command ends with 130 where a run out of time ends with 0."""
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    runner = Runner(1, 0.0, lambda _: None)

    def interrupt():
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    runner.run([job(tmp_path, "a", [POLITE, str(saved), str(begun)])], lambda: "")
    assert saved.read_text() == "saved"
    assert (runner.stopped, runner.signal) == ("SIGINT", signal.SIGINT)


def test_parts_end_with_the_process_that_started_them(tmp_path):
    """The runner is killed and cannot say anything to its jobs."""
    part = (
        "import os, pathlib, signal, sys, time; "
        "from vilta.ablation.runner import end_with_parent; end_with_parent(); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(120)"
    )
    program = (
        "import sys, pathlib; from vilta.ablation.runner import Job, Runner; "
        f"Runner(1, 0, print).run([Job('x', [[sys.executable, '-c', {part!r}]], "
        f"pathlib.Path({str(tmp_path / 'log')!r}), lambda: None)], lambda: '')"
    )
    runner = subprocess.Popen([sys.executable, "-c", program])
    path = tmp_path / "pid"
    for _ in range(600):
        if path.exists() and path.read_text():
            break
        time.sleep(0.1)
    pid = int(path.read_text())
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the part goes on alone")
