"""One thread that runs the model and batches waiting requests.

A CPU or a GPU gains nothing from two forward passes in parallel, but much from one with more rows.
So every job goes through one bounded queue. The thread takes the oldest job together with waiting
jobs of the same kind, up to a batch, and runs them as one call. It never waits for a fuller batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Run = Callable[[Sequence[Any]], Sequence[Any]]
"""Answers a batch of items, in order."""


class QueueFull(Exception):
    """The queue is full."""


@dataclass
class _Job:
    run: Run
    item: Any
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def tell(self, how: Callable[[asyncio.Future[Any], Any], None], value: Any) -> None:
        """Pass a result to the waiting event loop, unless that has ended."""
        with suppress(RuntimeError):  # "Event loop is closed"
            self.loop.call_soon_threadsafe(how, self.answer, value)


class ModelThread:
    """Runs jobs in one thread; at most ``waiting`` of them wait, at most ``batch`` run as one."""

    def __init__(self, *, waiting: int, batch: int) -> None:
        self.waiting, self.batch = waiting, batch
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    async def answer(self, run: Run, item: Any, timeout: float) -> Any:
        """Return ``run([item])[0]``, computed together with other items of the same ``run``.

        Raises ``QueueFull``, ``TimeoutError``, or what ``run`` raises for this item.
        """
        job = _Job(run, item, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._stopped or len(self._jobs) >= self.waiting:
                raise QueueFull
            self._jobs.append(job)
            self._changed.notify()
        return await asyncio.wait_for(job.answer, timeout)  # cancels it when the time is over

    def stop(self) -> None:
        """Finish what is running and start nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (jobs := self._next()) is not None:
            try:
                answers = list(jobs[0].run([job.item for job in jobs]))
            except Exception as error:  # noqa: BLE001  one thread serves all: it must go on
                if len(jobs) > 1:  # run them one by one: only the faulty ones fail
                    with self._changed:
                        alone = [
                            _Job(_alone(job.run), job.item, job.answer, job.loop) for job in jobs
                        ]
                        self._jobs.extendleft(reversed(alone))
                else:
                    jobs[0].tell(_fail, error)
                continue
            for job, value in zip(jobs, answers, strict=True):
                job.tell(_finish, value)

    def _next(self) -> list[_Job] | None:
        """Wait for a job; return it with others of its kind, or None when stopped."""
        with self._changed:
            while True:
                self._jobs = deque(job for job in self._jobs if not job.answer.done())
                if self._stopped:
                    return None
                if self._jobs:
                    break
                self._changed.wait()
            run = self._jobs[0].run
            taken = [job for job in self._jobs if job.run == run][: self.batch]
            self._jobs = deque(job for job in self._jobs if not any(job is one for one in taken))
            return taken


def _alone(run: Run) -> Run:
    """Return a new function for one job, so that it is not batched with others."""
    return lambda items: run(items)


def _finish(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():  # nobody waits any more
        answer.set_result(value)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
