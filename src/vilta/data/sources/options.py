"""What a person says about a source beyond where it is: its split, its columns, its encoding."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from vilta.config.tools import SourceFlags


@dataclass(frozen=True, kw_only=True)
class SourceOptions(SourceFlags):
    """The flags, and what only one reader knows."""

    region_crops: bool = False
    """Visual Genome: each region is an image of its own."""


IN_A_NAME = tuple(f.name for f in fields(SourceFlags))
"""Options that may be part of a source's name: ``captions.csv?encoding=latin-1&split=val``."""
_OPTION = f"(?:{'|'.join(IN_A_NAME)})="
_QUERY = re.compile(rf"\?(?={_OPTION})")
_SOURCE_AFTER_PLUS = r"\+(?:[/\\]|[\w.]+:)"  # else it is part of the name: a folder may have one
_ABSOLUTE = re.compile(
    r"(?<![^+:=])(?:file://|[A-Za-z]:)?(?!(?<=:)//)[/\\]"  # no s3://bucket
    rf"(?:(?!{_SOURCE_AFTER_PLUS}|[?&]{_OPTION}).)*",
    re.DOTALL,
)


def named_options(path: str, options: SourceOptions) -> tuple[str, SourceOptions]:
    """Return a path without the options in it, and the options with them.

    Raises ``ValueError`` for an option that does not exist.
    """
    found = _QUERY.search(path)
    if found is None:
        return path, options
    given = dict(parse_qsl(path[found.end() :].replace("+", "%2B"), keep_blank_values=True))
    if unknown := [name for name in given if name not in IN_A_NAME]:
        raise ValueError(f"{path}: no option {unknown[0]!r}; there are: {', '.join(IN_A_NAME)}")
    changes: dict[str, Any] = {name: value for name, value in given.items() if value}
    return path[: found.start()], replace(options, **changes)


def joined_sources(path: str, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Split at ``+``, but not within the name of what is there: ``c++/a.json+b.json``."""
    pieces, parts = path.split("+") if path else [], []
    while pieces:
        *whole, last = pieces
        while whole and not exists("+".join([*whole, last.partition("?")[0]])):
            *whole, last = whole
        count = len(whole) + 1
        parts.append("+".join(pieces[:count]))
        pieces = pieces[count:]
    return parts


def public_name(source: str) -> str:
    """Return a name without the folders above each absolute path in it, to be published.

    ``a+/home/me/b.csv?images=/home/me/c`` becomes ``a+b.csv?images=c``.
    """
    return _ABSOLUTE.sub(lambda found: Path(found[0]).name, source)
