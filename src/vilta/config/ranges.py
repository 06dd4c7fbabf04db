"""Ranges of settings: stated in a field's type, checked for a whole config at once."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints


@dataclass(frozen=True)
class Range:
    """From ``least`` to ``most``, both included, or above ``least`` if ``exclusive``."""

    least: float | int
    most: float | int = math.inf
    exclusive: bool = False

    def check(self, name: str, value: float | int) -> None:
        """Raise ``ValueError`` that names the setting and what to choose."""
        low = value > self.least if self.exclusive else value >= self.least
        if low and value <= self.most:
            return
        if math.isfinite(self.most):
            wanted = f"choose {'above ' if self.exclusive else ''}{self.least:g} to {self.most:g}"
        else:
            wanted = f"it must be {'above ' * self.exclusive}{self.least:g}"
            wanted += "" if self.exclusive else " or more"
        raise ValueError(f"{name} is {value}; {wanted}")


Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, exclusive=True)]
Positive = Annotated[float, Range(0, exclusive=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
BatchSize = Annotated[int | Literal["auto"], Range(1)]


def check_config(config: Any, where: str = "") -> None:
    """Check every field of a config and of its parts, then what ``check`` methods ask of them.

    Raises ``ValueError`` with the path of the first setting out of range, such as ``objective.alpha
    is 2; choose 0 to 1``.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            check_config(value, f"{name}.")
        for extra in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(extra, Range) and not isinstance(value, str):
                extra.check(name, value)
    if hasattr(config, "check"):
        config.check()
