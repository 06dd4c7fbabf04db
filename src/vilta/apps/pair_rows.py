"""Batches of a pair table: pixels and captions, without broken images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import datasets
from jaxtyping import UInt8
from torch import Tensor

from vilta.apps.image_input import pixels_of
from vilta.data.samples import image_bytes

Progress = Callable[[int, int], None]
"""Called with the number of rows done and their total."""


class Rows(NamedTuple):
    """Some rows of a table whose images can be read."""

    numbers: list[int]
    rows: list[dict[str, Any]]
    pixels: UInt8[Tensor, "B 3 S S"]


def readable_rows(
    table: datasets.Dataset,
    size: int,
    batch_size: int,
    broken: list[tuple[int, str]],
    progress: Progress | None = None,
) -> Iterator[Rows]:
    """Yield the table in batches; unreadable images go to ``broken``, each with the reason."""
    table = table.cast_column("image", datasets.Image(decode=False))
    for start in range(0, len(table), batch_size):
        stop = min(start + batch_size, len(table))
        rows = [table[number] for number in range(start, stop)]
        try:
            yield Rows([*range(start, stop)], rows, _pixels(rows, size))
        except ValueError:  # then one by one
            good = []
            for number, row in zip(range(start, stop), rows, strict=True):
                try:
                    good.append((number, row, _pixels([row], size)[0]))
                except ValueError as error:
                    broken.append((number, str(error).removeprefix("image 0: ")))
            if good:
                numbers, rows, pixels = map(list, zip(*good, strict=True))
                yield Rows(numbers, rows, pixels_of(pixels, size))
        if progress is not None:
            progress(stop, len(table))


def _pixels(rows: list[dict[str, Any]], size: int) -> UInt8[Tensor, "B 3 S S"]:
    return pixels_of([image_bytes(row["image"]) for row in rows], size)
