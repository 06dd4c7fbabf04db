"""No warnings of other libraries, in any number of threads."""

from __future__ import annotations

import threading
import warnings
from contextlib import AbstractContextManager

from PIL import Image


class _Muted(AbstractContextManager["_Muted"]):
    """Nothing is warned of while a thread is inside; an image that looks like a bomb is an error.

    Filters are those of the process: threads that set them each for itself put back what another
    has set. So the first thread in sets them, and the last one out puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> _Muted:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._inside += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


muted = _Muted()
