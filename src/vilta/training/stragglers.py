"""Names the process that keeps the others waiting: one that was stopped, or is very slow.

Nothing is added to a step. A thread of each process writes every few seconds how many collectives
the process has begun (torch counts them) into the store through which the processes have met, and
reads what the others wrote. It works alike for gloo and NCCL, and nobody has to answer.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count

import torch
from accelerate import Accelerator

from vilta.screen import notes

BEAT = 5.0
"""Seconds between two signs of life."""
PATIENCE = 20.0
"""Seconds without a sign, or without a collective while others wait, after which a process is
named: with a beat before and after it, within 30 seconds of being stopped. Our choice."""
LOST = 2.0
"""Seconds that a process waits before it ends with an error of torch. Where another one was killed,
torchrun looks every tenth of a second and names that one, as it should; without the wait it may see
first the error that this has caused here, "Connection reset by peer"."""
_watches = count()


@dataclass
class _Seen:
    """What one process has last written, and when this process first read it."""

    beat: int
    begun: int
    who: str
    sign_at: float
    moved_at: float


def name_stragglers(accelerator: Accelerator) -> AbstractContextManager[object]:
    """Return a block in which a process that keeps the others waiting is named on the screen."""
    if accelerator.num_processes == 1:
        return nullcontext()
    # A connection of its own: the processes may be waiting at the shared one.
    store = torch.distributed.distributed_c10d._get_default_store().clone()
    group = torch.distributed.distributed_c10d._get_default_group()
    return Watch(
        torch.distributed.PrefixStore(f"stragglers/{next(_watches)}", store),
        accelerator.process_index,
        accelerator.num_processes,
        begun=group._get_sequence_number_for_group,
        say=notes.print,
    )


class Watch:
    """One process's part: it gives signs of life, and looks for those of the others."""

    def __init__(
        self,
        store: torch.distributed.Store,
        rank: int,
        processes: int,
        *,
        begun: Callable[[], int],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``begun`` returns how many collectives this process has begun; ``clock`` the seconds."""
        self.store, self.rank, self.begun, self.say, self.clock = store, rank, begun, say, clock
        self._seen = {other: _Seen(-1, -1, "", clock(), clock()) for other in range(processes)}
        self._who = f"pid {os.getpid()} on {platform.node()}"
        self._beats = 0
        self._named: dict[int, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stragglers", daemon=True)

    def __enter__(self) -> Watch:
        self._sign()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RuntimeError):
            time.sleep(LOST)
        self._ended.set()
        self._thread.join(2.0)  # do not wait for a store that does not answer
        if not self._thread.is_alive():
            self._write("left")

    def _watch(self) -> None:
        while not self._ended.wait(BEAT) and self.turn():
            pass

    def turn(self) -> bool:
        """Give a sign of life and look for the others'; False if the store has gone."""
        if not self._sign():
            return False
        try:
            self._look()
        except torch.distributed.DistError:
            return False
        return True

    def _sign(self) -> bool:
        self._beats += 1
        return self._write(f"{self._beats} {self.begun()} {self._who}")

    def _write(self, text: str) -> bool:
        try:
            self.store.set(str(self.rank), text)
        except torch.distributed.DistError:
            return False
        return True

    def _look(self) -> None:
        """Read the others' signs; say who is late, if this process is the first that can."""
        now = self.clock()
        for rank in list(self._seen):
            text = self.store.get(str(rank)).decode() if self.store.check([str(rank)]) else ""
            if text == "left":
                del self._seen[rank]
            elif text:
                beat, begun, who = text.split(maxsplit=2)
                seen = self._seen[rank]
                if seen.beat != int(beat):
                    seen.beat, seen.who, seen.sign_at = int(beat), who, now
                if seen.begun != int(begun):
                    seen.begun, seen.moved_at = int(begun), now
        late = self._late(now)
        # One that comes back knows nothing of it, so another one says it.
        if self.rank == min(self._seen.keys() - late.keys() - self._named.keys(), default=-1):
            for rank in late.keys() - self._named.keys():
                self.say(
                    f"the others wait for process {rank} ({self._seen[rank].who}): {late[rank]}"
                )
            for rank in self._named.keys() - late.keys():
                self.say(f"process {rank} goes on")
        self._named = late

    def _late(self, now: float) -> dict[int, str]:
        """Return the processes that keep the others waiting, and what is known of each."""
        silent = {r for r, s in self._seen.items() if now - s.sign_at > PATIENCE}
        late = dict.fromkeys(silent, "no sign of life; stopped, or its machine is overloaded")
        begun = {rank: seen.begun for rank, seen in self._seen.items() if rank not in silent}
        still = all(now - seen.moved_at > PATIENCE for seen in self._seen.values())
        if still and not silent and min(begun.values()) < max(begun.values()):
            behind = [rank for rank, number in begun.items() if number == min(begun.values())]
            late |= dict.fromkeys(behind, "it is at work, and has not come for long")
        return late
