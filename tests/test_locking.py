"""One writer to a folder: the second is refused and told by whom, the dead hold nothing."""

import json
import signal
import subprocess
import sys

import pytest

from vilta.locking import only_writer

HOLDER = """
import sys, time
from pathlib import Path
from vilta.locking import only_writer
with only_writer(Path(sys.argv[1]), "runs/mine"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def test_the_second_writer_is_refused_and_told_who_is_first(tmp_path, holder):
    with (
        pytest.raises(ValueError, match=rf"runs/mine is being written by process {holder.pid} \("),
        only_writer(tmp_path / ".lock", "runs/mine"),
    ):
        pass
    assert holder.poll() is None and (tmp_path / ".lock").exists(), "the first is unharmed"


LATE = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(0.2)
os.write(file, sys.argv[2].encode())
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ('{"pid": 7, "host": "far", "since": "noon", "command": "vilta"}', "process 7 on far"),
        ("no card", "another process"),
    ],
)
def test_a_writer_that_has_not_said_yet_who_it_is_is_waited_for(tmp_path, card, named):
    lock = tmp_path / ".lock"
    child = subprocess.Popen(
        [sys.executable, "-c", LATE, str(lock), card], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"by {named}"), only_writer(lock, "runs/mine"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_killed_writer_holds_nothing_and_is_named(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with only_writer(tmp_path / ".lock", "runs/mine") as note:
        assert f"process {holder.pid}" in note and "ended without finishing" in note
    assert not (tmp_path / ".lock").exists()
    with only_writer(tmp_path / ".lock", "runs/mine") as note:
        assert note == ""


def test_a_note_is_one_line_whatever_the_lock_file_says(tmp_path):
    card = {"pid": 1, "host": "a\nb", "since": "c\u2028d", "command": "e\r\nf"}
    (tmp_path / ".lock").write_text(json.dumps(card))
    with only_writer(tmp_path / ".lock", "runs/mine") as note:
        assert note.startswith("process 1 on a b (e f, since c d) ended without finishing")


def test_a_process_is_kept_apart_from_itself(tmp_path):
    with (
        only_writer(tmp_path / ".lock", "x"),
        pytest.raises(ValueError, match="already written by this process"),
        only_writer(tmp_path / ".lock", "x"),
    ):
        pass
    with only_writer(tmp_path / ".lock", "x"):
        pass


def test_forked_children_do_not_inherit_it(tmp_path):
    """A loader process may outlive its killed parent by seconds; the run starts again at once."""
    code = HOLDER.replace("time.sleep(600)", "import os; os.fork() or time.sleep(30); os._exit(0)")
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")])
    child.wait(timeout=30)  # the parent ends without tidying up, its child sleeps on
    with only_writer(tmp_path / ".lock", "runs/mine") as note:
        assert f"process {child.pid}" in note


def test_many_at_once_are_never_two(tmp_path):
    """Each appends its begin and its end to one file; they must alternate."""
    code = """
import os, sys, time
from pathlib import Path
from vilta.locking import only_writer
folder, until = Path(sys.argv[1]), time.monotonic() + 1.0
log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while time.monotonic() < until:
    try:
        with only_writer(folder / ".lock", "x"):
            os.write(log, b"<")
            os.write(log, b">")
    except ValueError:
        pass
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]
    written = (tmp_path / "log").read_text()
    assert written and written == "<>" * (len(written) // 2)


def test_what_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError), only_writer(tmp_path / "missing" / ".lock", "x"):
        pass
