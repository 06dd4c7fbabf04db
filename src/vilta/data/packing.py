"""Writes pairs as Arrow shards in the on-disk layout of `datasets`, with a manifest beside them.

``datasets.load_from_disk`` maps the result into memory with no conversion, so random access is
cheap. The same source and settings give byte-identical shards.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import PIL
import pyarrow as pa

from vilta.config import PackConfig
from vilta.config_file import to_dict
from vilta.data.corpora import FEATURES, Reader, Row, chunks, find_reader, nothing_usable
from vilta.data.transforms import decode_image, shrink

FORMAT = "vilta pairs, version 1"
"""Names the layout in the manifest."""
BATCH_ROWS = 100
"""Rows of one Arrow record batch: what a random access touches (our choice)."""
JPEG_QUALITY = 90
"""Quality of images that are shrunk (our choice)."""

Progress = Callable[[int, int | None], None]
"""Called with the rows read so far and their total, if it is known."""


def pack(source: str, config: PackConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Write the pairs of ``source`` to the folder ``config.out`` and return the manifest.

    Every image is decoded once; one that cannot be is skipped and named in the manifest, or stops
    the packing under ``config.strict``. The folder appears whole or not at all.

    Raises ``ValueError`` with one line for a source that cannot be used, or an ``out`` that is
    missing, not empty or cannot be written.
    """
    if config.shard_rows < 1 or config.short_side < 0:
        raise ValueError("shard_rows must be at least 1 and short_side at least 0")
    out = _free_folder(config.out)
    reader = find_reader(source, config.split, config.caption_column, config.region_crops)
    reader.strict = config.strict
    with _whole_or_nothing(out) as folder:
        rows = _verified(reader, config.short_side, progress)
        shards: list[dict[str, Any]] = []
        for first in rows:  # what is left of the stream; a shard is never whole in memory
            shard = chain([first], islice(rows, config.shard_rows - 1))
            shards.append(_write_shard(folder / f"shard-{len(shards)}", shard))
        if not shards:
            raise ValueError(nothing_usable(reader))
        _finish_layout(folder, shards)
        manifest = _manifest(reader, source, config, shards)
        _write_json(folder / "manifest.json", manifest)
    return manifest


def _verified(reader: Reader, short_side: int, progress: Progress | None) -> Iterator[Row]:
    """Yield the reader's rows whose image can be decoded, shrunk if that is wanted."""
    for row in reader.rows():
        if progress is not None:
            progress(1, reader.total)
        try:
            image = decode_image(row["image"]["bytes"])
        except ValueError as error:
            reader.skip(row["source"], str(error))
            continue
        if short_side and min(image.size) > short_side:
            file = io.BytesIO()
            shrink(image, short_side).save(file, "JPEG", quality=JPEG_QUALITY)
            row["image"] = {"bytes": file.getvalue(), "path": None}
        yield row


def _write_shard(path: Path, rows: Iterator[Row]) -> dict[str, Any]:
    """Write one shard; return its entry in the manifest."""
    schema = FEATURES.arrow_schema
    written = captions = 0
    with open(path, "wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for batch in chunks(rows, BATCH_ROWS):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                written += len(batch)
                captions += sum(len(row["captions"]) for row in batch)
        file.flush()
        os.fsync(file.fileno())
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    return {
        "file": path.name,
        "rows": written,
        "captions": captions,
        "bytes": size,
        "sha256": digest,
    }


def _finish_layout(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Name the shards as `datasets` does and write its two JSON files."""
    for number, shard in enumerate(shards):
        name = f"data-{number:05d}-of-{len(shards):05d}.arrow"
        os.rename(folder / shard["file"], folder / name)
        shard["file"] = name
    hashes = "".join(shard["sha256"] for shard in shards)
    state: dict[str, Any] = {
        "_data_files": [{"filename": shard["file"]} for shard in shards],
        "_fingerprint": hashlib.sha256(hashes.encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write_json(folder / "state.json", state)
    datasets.DatasetInfo(features=FEATURES).write_to_directory(str(folder))


def _manifest(
    reader: Reader, source: str, config: PackConfig, shards: list[dict[str, Any]]
) -> dict[str, Any]:
    packages = ("datasets", "pyarrow")
    settings = {k: v for k, v in to_dict(config).items() if k not in ("out", "split")}
    return {
        "format": FORMAT,
        "source": source,
        "reader": reader.what,
        "split": config.split,
        "rows": sum(shard["rows"] for shard in shards),
        "captions": sum(shard["captions"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "skipped": len(reader.skipped),
        "settings": settings,
        "versions": {p: importlib.metadata.version(p) for p in packages}
        | {"pillow": PIL.__version__},
        "shards": shards,
        "skipped_items": [vars(item) for item in reader.skipped],
    }


def _free_folder(out: str) -> Path:
    """Return the folder to write; a ``ValueError`` says why it cannot be."""
    if not out:
        raise ValueError("nowhere to write to; give --out FOLDER")
    path = Path(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another or delete it")
    return path


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``out`` that becomes ``out`` if all goes well."""
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield temporary
        temporary.chmod(0o755)
        os.rename(temporary, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
