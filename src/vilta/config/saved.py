"""Settings saved by a run or a comparison whose folder was moved, or is seen from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

_BESIDE = {"config.yaml": "metrics.jsonl", "ablate.yaml": "plan.json"}
"""Files of settings, and what lies beside them once something was begun."""


def require_its_folder(path: str, config: Any, flags: Collection[str]) -> None:
    """Raise ``ValueError`` where ``config``, read from ``path``, goes on in another folder.

    Nothing would be found there, and all would be begun anew. ``flags`` are those that were given:
    who names the folder means it.
    """
    place, name = os.path.split(path)
    if not os.path.isfile(os.path.join(place, _BESIDE.get(name, ""))):
        return
    run = getattr(config, "run", None)
    flag, out = ("--run.out", run.out) if run else ("--out", config.out)
    goes_on = run is None or run.resume
    if goes_on and out and flag not in flags and os.path.realpath(out) != os.path.realpath(place):
        raise ValueError(
            f"{path} was saved in {out}, which is another folder; {flag} {place or '.'} goes on "
            f"in this one, {flag} {out} in that"
        )
