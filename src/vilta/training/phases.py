"""The phases of a run, in which a step costs differently, and the time that is left over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps with the same objectives, until the next phase begins."""

    start: int
    """Steps taken before it."""
    name: str
    """The objective that begins with it."""
    cost: float = 1.0
    """Expected time of a step, relative to the other phases; used until one was measured."""


WARM = 10
"""Steps until a phase's own measurements count alone: its first ones are slower. Our choice."""


class Pace:
    """Seconds of a step by phase, as measured in this session or guessed from another phase."""

    def __init__(self, phases: Sequence[Phase], steps: int) -> None:
        self.phases = sorted(phases, key=lambda phase: phase.start) or [Phase(start=0, name="")]
        self.steps = steps
        self._seconds = [0.0] * len(self.phases)
        self._counts = [0] * len(self.phases)

    def begins(self, step: int) -> str:
        """Name what begins after ``step`` steps; empty if nothing does, or the run itself."""
        return next((p.name for p in self.phases if p.start == step and step > 0), "")

    def add(self, step: int, seconds: float) -> None:
        """Take note of how long the step with this number (from 1) took."""
        at = max(0, sum(p.start < step for p in self.phases) - 1)
        self._seconds[at] += seconds
        self._counts[at] += 1

    def left(self, step: int) -> float:
        """Return the seconds that the steps after ``step`` will take."""
        scale, total = 0.0, 0.0
        ends = [p.start for p in self.phases[1:]] + [self.steps]
        for phase, end, spent, count in zip(
            self.phases, ends, self._seconds, self._counts, strict=True
        ):
            if count:
                guessed = max(0, WARM - count) if scale else 0
                scale = (spent / phase.cost + guessed * scale) / (count + guessed)
            total += max(0, min(end, self.steps) - max(step, phase.start)) * scale * phase.cost
        return total
