"""Shards of the pair table on disk: written batch by batch, as an Arrow stream or as Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vilta.data.sources import FEATURES, PairRow
from vilta.data.sources.base import Read

SCHEMA = FEATURES.arrow_schema
BATCH_ROWS = 100
"""Rows of one record batch: what a random access touches (our choice)."""


class Shard:
    """A shard while it is written, and what was met on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = Writer(path)
        self.waiting: list[PairRow] = []
        self.images: list[str] = []
        self.skipped: list[dict[str, str]] = []
        self.merged: list[dict[str, Any]] = []

    def add(self, row: PairRow, digest: str) -> None:
        """Take a row; rows are written a batch at a time."""
        self.images.append(digest)
        self.waiting.append(row)
        if len(self.waiting) == BATCH_ROWS:
            self.writer.write(self.waiting)
            self.waiting = []

    def close(self, read: Read) -> dict[str, Any]:
        """Finish the file, and return the line of the journal."""
        if self.waiting:
            self.writer.write(self.waiting)
        self.writer.close()
        if not self.images:
            self.path.unlink()
        return {
            "read": asdict(read),
            "shards": [self.path.name] if self.images else [],
            "images": self.images,
            "skipped": self.skipped,
            "merged": self.merged,
        }


class Writer:
    """Writes rows as an Arrow stream, as `datasets` keeps them, or as Parquet."""

    def __init__(self, path: Path) -> None:
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115
        parquet = path.suffix == ".parquet"
        self.inner = (
            pq.ParquetWriter(self.file, SCHEMA) if parquet else pa.ipc.new_stream(self.file, SCHEMA)
        )

    def write(self, rows: list[PairRow]) -> None:
        """Write one batch."""
        self.inner.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))

    def close(self) -> None:
        """Return when all is on the disk."""
        self.inner.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a shard."""
    if path.suffix == ".parquet":
        yield from pq.ParquetFile(path).iter_batches(BATCH_ROWS)
    else:
        with pa.memory_map(str(path)) as file:
            yield from pa.ipc.open_stream(file)
