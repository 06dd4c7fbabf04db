"""How far all runs of a comparison are, and how long they will still take."""

from __future__ import annotations

import time

from vilta.ablation.grid import Cell


class Progress:
    """Says how far the runs are; ``steps`` are those that each will take."""

    def __init__(self, steps: dict[Cell, int]) -> None:
        self.steps = steps
        self.began, self.before = time.monotonic(), self._taken()

    def __call__(self) -> str:
        """Return a line for the screen."""
        taken, total = self._taken(), sum(self.steps.values())
        self.before = min(self.before, taken)  # a stopped run goes on from its checkpoint
        spent, done = time.monotonic() - self.began, taken - self.before
        after = f"{total:,} steps after {spent / 60:.1f} min"
        if taken == total:  # how long measuring takes cannot be told in steps
            measured = sum(cell.measured for cell in self.steps)
            return f"all {after}, {measured} of {len(self.steps)} runs measured"
        left = f", about {(total - taken) * spent / done / 60:.0f} min left" if done else ""
        return f"{taken:,} of {after}{left}"

    def _taken(self) -> int:
        return sum(
            steps if cell.trained else min(steps, cell.steps_taken())
            for cell, steps in self.steps.items()
        )
