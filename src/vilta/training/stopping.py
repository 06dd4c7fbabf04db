"""How a run is asked to stop: Ctrl-C, SIGTERM and SIGHUP, from its first step to its last file."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SECOND_AFTER = 0.5
"""Seconds after the first request from which another one counts as a second. Ctrl-C reaches a
process from the terminal and once more from make or torchrun (our choice)."""
AGAIN = 1.0
"""Seconds after which work that goes on is broken off once more (our choice). What a handler raises
while Python calls back a weak reference or runs a destructor goes nowhere: 4 of 100 requests in an
evaluation were lost so."""
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(BaseException):
    """Ends work that may be broken off at any point. Caught where that work was begun."""


class FirstRequest:
    """Takes requests to stop that come at once for one, and ends the process at a second one."""

    def __init__(self) -> None:
        self.came = math.inf
        """When the first one came."""

    def is_first(self, number: int) -> bool:
        """Whether the signal ``number`` is the first request; one well after it does not return."""
        if self.came == math.inf:
            self.came = time.monotonic()
            return True
        if time.monotonic() - self.came > SECOND_AFTER:
            os.write(2, b"ended at once\n")
            os._exit(128 + number)
        return False


class StopRequest:
    """Turns a signal into a flag while its block runs; a second signal ends the process at once.

    The second one is seen by a thread, so it does not wait for a computation either. Under
    ``torchrun`` the agent ends processes that do not stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number = signal.SIGINT
        """The signal that asked."""
        self.may_break = False
        """Whether the work that is done now may be broken off."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        # Only the main thread may install handlers; elsewhere there is nothing to be asked.
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                self._before[number] = signal.signal(number, self._ask)
        if os.name == "posix" and "TORCHELASTIC_RUN_ID" not in os.environ:
            self._ends = socket.socketpair()
            self._ends[1].setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
            self._before[signal.SIGURG] = signal.signal(signal.SIGURG, self._break)
            threading.Thread(target=_watch, args=(self._ends[0], self), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if hasattr(self, "_ends"):
            signal.set_wakeup_fd(self._wakeup)
            self._ends[1].close()  # which ends the thread

    @contextmanager
    def breaks(self) -> Iterator[None]:
        """Let a request break off the block, at once, by :class:`Interrupted`.

        It is raised at the end of the block if it was lost before, see ``AGAIN``.
        """
        if self.asked:
            raise Interrupted
        self.may_break = True
        try:
            yield
        finally:
            self.may_break = False
        if self.asked:
            raise Interrupted

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self.number = True, signal.Signals(number)
            self._break()

    def _break(self, *_: object) -> None:
        if self.asked and self.may_break:
            raise Interrupted


def _watch(end: socket.socket, stop: StopRequest) -> None:
    """Read the number of each signal as it comes, until the other end is closed."""
    first = None
    with end:
        while True:
            try:
                received = end.recv(1)
            except TimeoutError:
                if stop.may_break:  # SIGURG: what nobody handles is ignored
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)
                continue
            if not received:
                return
            number = received[0]
            if number not in _SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                end.settimeout(AGAIN)
            elif time.monotonic() - first > SECOND_AFTER:
                os.write(2, b"ended at once; the last checkpoint is whole\n")
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(128 + number)
