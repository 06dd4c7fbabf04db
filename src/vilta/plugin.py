"""Classes that users bring along, named ``module:Class`` on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def import_class(place: str, base: type, guide: str) -> Any:
    """Import the class that ``module:Class`` names; the module may be a file in this folder.

    Raises ``ValueError`` if it cannot be imported, or is not a subclass of ``base``; the message
    names ``guide``, the page that shows how to write one.
    """
    module, _, name = place.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file beside the data, as with `python -m`
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{place} cannot be imported: {error}; see {guide}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{place} is not a {base.__name__}; see {guide}")
    return found
