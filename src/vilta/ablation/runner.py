"""Starts the parts of a comparison as processes of their own, some at a time, and stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import NamedTuple

PATIENCE = 120.0
"""Seconds that a run may take to write its checkpoint when it is stopped, before it is killed."""
WATCHED = "VILTA_ENDS_WITH_STDIN"
"""Environment variable of a part whose standard input is the pipe to the process that started it.
"""
SHOWN_EVERY = 20.0
"""Seconds between two lines of progress."""


class Job(NamedTuple):
    """Parts that follow one another, each a command line, and where their output goes."""

    name: str
    commands: Sequence[Sequence[str]]
    log: Path
    finish: Callable[[], None]
    """Called when all parts have ended well."""
    check: Callable[[], None] = lambda: None
    """Called before each part. What the two raise, ``ValueError`` or ``OSError``, fails the job."""


class Runner:
    """Runs jobs, ``jobs`` at a time, on the CUDA devices in turn; each job on one device."""

    def __init__(self, jobs: int, minutes: float, say: Callable[[str], None]) -> None:
        self.jobs, self.say = jobs, say
        self.ends = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.failed: dict[str, str] = {}
        self.stopped = ""
        """Why the jobs were stopped; empty while they run."""
        self.signal = 0
        """The signal that asked for it; 0: none."""
        self._stop = threading.Event()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._slots: SimpleQueue[str | None] = SimpleQueue()
        devices = _devices()
        for slot in range(jobs):
            self._slots.put(devices[slot % len(devices)] if devices else None)

    def run(self, jobs: Sequence[Job], progress: Callable[[], str]) -> None:
        """Run all jobs, or as many as there is time for; what failed is in ``failed``."""
        before = {
            number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                waiting: set[Future[None]] = {pool.submit(self._job, job) for job in jobs}
                while waiting:
                    left = min(SHOWN_EVERY, max(0.1, self.ends - time.monotonic()))
                    done, waiting = wait(waiting, timeout=left, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    if time.monotonic() >= self.ends and not self._stop.is_set():
                        self.stop("the time is up")
                    if not done and not self._stop.is_set():
                        self.say(progress())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, why: str) -> None:
        """Ask all processes to stop: a training run writes a checkpoint first."""
        self.stopped = self.stopped or why
        self._stop.set()
        with self._lock:
            running = list(self._processes.values())
        for process in running:
            if process.poll() is None:
                process.terminate()

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.stop(signal.Signals(number).name)

    def _job(self, job: Job) -> None:
        """Run the parts of a job one after the other, until one fails or all are stopped."""
        device = self._slots.get()
        try:
            for command in job.commands:
                if self._stop.is_set():
                    return
                why = self._part_failed(job, command, device)
                if self._stop.is_set():
                    return
                if why:
                    self._fail(job, why)
                    return
            if why := _reason(job.finish):
                self._fail(job, why)
            else:
                self.say(f"{job.name} is finished")
        finally:
            self._slots.put(device)

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.name] = why
        self.say(f"{job.name} failed: {why}")

    def _part_failed(self, job: Job, command: Sequence[str], device: str | None) -> str:
        """Run one part; return what it failed with, empty if it ended well."""
        if why := _reason(job.check):
            return why
        begun = job.log.stat().st_size if job.log.exists() else 0
        code = self._part(job, command, device)
        if code < 0:  # it could not say why
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{hint}"
        if code:
            return _last_line(job.log, begun).removeprefix("error: ") or f"exit code {code}"
        return ""

    def _part(self, job: Job, command: Sequence[str], device: str | None) -> int:
        """Run one part and return its exit code."""
        environment = dict(os.environ)
        threads = max(1, _cores() // self.jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment.setdefault("TOKENIZERS_PARALLELISM", "false")
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches it through us, once. It stops when the pipe to it
            # closes, as it does if we are killed.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment | {WATCHED: "1"},
                start_new_session=True,
            )
            with self._lock:
                self._processes[job.name] = process
            if self._stop.is_set():
                process.terminate()
            try:
                return self._wait(process)
            finally:
                with self._lock:
                    del self._processes[job.name]

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a process; one that does not stop when it is asked to is killed."""
        while not self._stop.is_set():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1.0)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=PATIENCE)
        process.kill()
        return process.wait()


def part_command(program: str, settings: Path, part: str) -> list[str]:
    """Return the command line of one part of a comparison."""
    return [sys.executable, "-m", program, "ablate", str(settings), "--part", part]


def end_with_parent() -> None:
    """In a part that a runner started: ask this process to stop when the runner is gone."""
    if not os.environ.get(WATCHED):
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _reason(call: Callable[[], None]) -> str:
    """Return what a call failed with, empty if it ended well."""
    try:
        call()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _devices() -> list[str]:
    """Return the CUDA devices that processes may be given, as they are named to them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    return [str(index) for index in range(torch.cuda.device_count())]


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _last_line(path: Path, begun: int) -> str:
    """Return the last line of a log from a byte on, where an error says what it is."""
    lines = path.read_bytes()[begun:].splitlines()
    return next((line.decode(errors="replace").strip() for line in lines[::-1] if line.strip()), "")
