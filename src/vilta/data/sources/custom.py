"""Sources with a reader of the user's own: ``module:Class:PATH`` (docs/new-source.md)."""

from __future__ import annotations

import re
from pathlib import Path

from vilta.data.sources.base import Reader
from vilta.data.sources.options import SourceOptions
from vilta.plugin import import_class

# A class begins with a capital letter, unlike in `hub:owner/name` or `scenes:1000`.
_NAME = re.compile(r"([A-Za-z_][\w.]*:[A-Z]\w*):(.+)", re.DOTALL)


def find_custom(path: str, options: SourceOptions) -> Reader | None:
    """Return the reader that ``module:Class:PATH`` names, or None for any other path.

    The class is called with PATH. Raises ``ValueError`` if there is no such class, or if options
    are given, which only the reader itself could interpret.
    """
    named = _NAME.fullmatch(path)
    if named is None or Path(path).exists():
        return None
    if options != SourceOptions():
        raise ValueError(f"{path}: options such as a split are for the class to read from PATH")
    reader: Reader = import_class(named[1], Reader, "docs/new-source.md")(named[2])
    return reader
