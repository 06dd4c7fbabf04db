"""Steps that are not finite: which samples may be the reason, and when a run gives up."""

from __future__ import annotations

import math

from accelerate.utils import gather_object

from vilta.training.reports import Outcome

SKIPS_IN_A_ROW = 3
"""Non-finite steps in a row after which a run stops. Our choice."""
_NAMES_SHOWN = 24


class Diverged(ValueError):
    """Training has broken the model, or never took a step: the settings are at fault, or the data.

    It is the run's own failure: the same settings would fail again.
    """


class Skips:
    """The samples of the steps that were skipped in a row."""

    def __init__(self) -> None:
        self._in_a_row: list[list[str]] = []

    def end(self) -> None:
        """Take note of a step that was finite."""
        self._in_a_row = []

    def add(self, names: list[list[str]], outcome: Outcome) -> list[str]:
        """Return the samples that may be the reason, of all processes, by their names.

        ``names`` are those of the samples of each micro-batch.
        """
        losses = [found["loss"] for found in outcome.reports]
        guilty = [n for n, loss in zip(names, losses, strict=True) if not math.isfinite(loss)]
        found: list[list[str]] = gather_object([_flat(guilty)])
        if not any(found):  # only the gradient broke: any sample may be the reason
            found = gather_object([_flat(names)])
        self._in_a_row.append(_flat(found))
        return self._in_a_row[-1]

    def give_up(self, step: int) -> None:
        """Raise ``Diverged`` with the samples' names if too many were skipped, up to ``step``."""
        if len(self._in_a_row) < SKIPS_IN_A_ROW:
            return
        every = list(dict.fromkeys(_flat(self._in_a_row)))
        shown = ", ".join(every[:_NAMES_SHOWN])
        more = f" and {len(every) - _NAMES_SHOWN} more" if len(every) > _NAMES_SHOWN else ""
        raise Diverged(
            f"loss or gradient was not finite in {SKIPS_IN_A_ROW} steps in a row, up to step "
            f"{step}; lower the learning rate or look at these samples (all of "
            f"them are named in metrics.jsonl): {shown}{more}"
        )


def _flat(lists: list[list[str]]) -> list[str]:
    """Return the names of all lists in order."""
    return [name for names in lists for name in names]
