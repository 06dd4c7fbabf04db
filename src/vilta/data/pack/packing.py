"""Writes pairs as shards in the on-disk layout of `datasets`, with a manifest next to them.

``datasets.load_from_disk`` maps the result into memory with no conversion, so random access is
cheap. The same source and settings give byte-identical shards, for any number of workers and
however often packing is interrupted: progress is recorded in a journal next to the shards, in a
hidden folder that becomes ``out`` at the end.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import logging
import os
import shutil
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import PIL

from vilta.config.ranges import check_config
from vilta.config.tools import InspectConfig, PackConfig, SourceFlags
from vilta.config.yaml_file import to_dict
from vilta.data.pack.journal import JOURNAL, Work, append_line, begin, write_json
from vilta.data.pack.shards import Shard, Writer, read_batches
from vilta.data.resizing import shrink
from vilta.data.sources import (
    FEATURES,
    PairRow,
    Reader,
    Skipped,
    SourceOptions,
    find_reader,
    nothing_usable,
)
from vilta.data.sources.base import Read, SourceChanged
from vilta.decoding import decode_image
from vilta.locking import only_writer
from vilta.screen import Tell

log = logging.getLogger("vilta.data")

FORMAT = "vilta pairs, version 3"
"""Names the layout in the manifest."""
JPEG_QUALITY = 90
"""Quality of images that are shrunk (our choice)."""
IN_FLIGHT = 8
"""Images that wait for each worker; they bound the memory (our choice)."""

Found = tuple[Read, PairRow | Skipped]
"""A row, or what is skipped, with what was read of the source up to it."""


def pack(source: str, config: PackConfig, progress: Tell | None = None) -> dict[str, Any]:
    """Write the pairs of ``source`` to the folder ``config.out`` and return the manifest.

    Every image is decoded once; one that cannot be is skipped and named in the manifest, or stops
    the packing under ``config.strict``. The folder appears whole or not at all; the same call goes
    on with a packing that was interrupted.

    Raises ``ValueError`` with one line for a source that cannot be used, or an ``out`` that is
    missing, not empty or cannot be written.
    """
    check_config(config)
    out = _free_folder(config.out)
    reader = find_reader(source, source_options(config))
    reader.strict = config.strict
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(out.parent / f".{out.name}.lock", out) as note:
            if note:
                log.warning(note)
            manifest = _packed(source, reader, _free_folder(config.out), config, progress)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{out} cannot be written: {reason}; the same command goes on") from error
    if config.push:
        _push(out, config)
    return manifest


def _packed(
    source: str, reader: Reader, out: Path, config: PackConfig, progress: Tell | None
) -> dict[str, Any]:
    """Do the packing, beside ``out``, and move it there."""
    folder = out.parent / f".{out.name}.partial"
    try:
        what = {"format": FORMAT, "source": source, "settings": _settings(config)}
        work = begin(folder, what)
        total = reader.total  # asked once: to count, some readers open every file
        found = _checked(reader, config, work.read)
        if progress is not None:
            found = _counted(found, work.rows + len(work.skipped), total, progress)
        _write_shards(folder, found, work, config)
        if not work.shards:
            raise ValueError(nothing_usable(reader, [Skipped(**each) for each in work.skipped]))
        _merge_captions(folder, work, config)
        manifest = _finish(folder, reader, source, config, work)
        if out.exists():
            out.rmdir()
        os.rename(folder, out)
    except SourceChanged:
        raise ValueError(
            f"packing {source} was interrupted, and it has changed since; delete {folder} to pack "
            "it anew"
        ) from None
    except ValueError:
        shutil.rmtree(folder)  # the source is at fault, and would be again
        raise
    return manifest


def source_options(config: PackConfig | InspectConfig) -> SourceOptions:
    """Return what the flags of a verb say about its source."""
    crops = isinstance(config, PackConfig) and config.region_crops
    flags = {f.name: getattr(config, f.name) for f in fields(SourceFlags)}
    return SourceOptions(**flags, region_crops=crops)


def _checked(reader: Reader, config: PackConfig, start: Read) -> Iterator[Found]:
    """Yield the rows whose image can be decoded and what is skipped, in order.

    All workers decode; Pillow lets threads run side by side.
    """
    workers = config.workers or os.cpu_count() or 1

    def check(read: Read, found: PairRow | Skipped) -> Found:
        return read, found if isinstance(found, Skipped) else _check(found, config.short_side)

    source = reader.found(start)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Found]] = deque()
        try:
            while True:
                free = workers * IN_FLIGHT - len(waiting)
                waiting.extend(pool.submit(check, *each) for each in islice(source, free))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _counted(
    found: Iterator[Found],
    before: int,
    total: int | None,
    progress: Tell,
) -> Iterator[Found]:
    """Tell ``progress`` of each row and each skipped one, after the ``before`` of a call before.

    What is skipped need not be in a reader's total, which grows with it where it is too small.
    """
    progress(before, total)
    for seen, each in enumerate(found, start=before + 1):
        progress(seen, total if total is None else max(total, seen))
        yield each


def _check(row: PairRow, short_side: int) -> PairRow | Skipped:
    """Decode a row's image, and shrink it if that is wanted."""
    try:
        image = decode_image(row["image"]["bytes"])
        if short_side and min(image.size) > short_side:
            file = io.BytesIO()
            shrink(image, short_side).save(file, "JPEG", quality=JPEG_QUALITY)
            row["image"] = {"bytes": file.getvalue(), "path": None}
    except ValueError as error:
        return Skipped(source=row["source"], reason=str(error))
    return row


def _write_shards(folder: Path, found: Iterator[Found], work: Work, config: PackConfig) -> None:
    """Write what comes, shard by shard, each into the journal once it is on the disk."""

    def begin() -> Shard:
        return Shard(folder / f"shard-{len(work.shards)}.{config.format}")

    def finish(shard: Shard, read: Read) -> None:
        line = shard.close(read)
        append_line(folder / JOURNAL, line)
        work.add(line)

    shard, read = begin(), work.read
    for read, each in found:
        if isinstance(each, Skipped):
            if config.strict:
                raise ValueError(f"{each.source}: {each.reason}")
            shard.skipped.append(vars(each))
            continue
        digest = hashlib.blake2b(each["image"]["bytes"], digest_size=16).hexdigest()
        if config.merge_duplicates and digest in work.images:
            known = {key: each[key] for key in ("source", "image_id", "captions")}
            shard.merged.append(known | {"row": work.images[digest]})
            continue
        work.images.setdefault(digest, work.rows + len(shard.images))
        shard.add(each, digest)
        if len(shard.images) == config.shard_rows:
            finish(shard, read)
            shard = begin()
    finish(shard, read)


def _merge_captions(folder: Path, work: Work, config: PackConfig) -> None:
    """Give the captions of duplicates to the rows that represent them; may be repeated."""
    extra: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in work.merged:
        shard, place = divmod(each["row"], config.shard_rows)
        extra[shard][place] += each["captions"]
    for shard, captions in extra.items():
        path = _shard_path(folder, work, shard)
        new = folder / f"new-{path.name}"
        writer, place = Writer(new), 0
        for batch in read_batches(path):
            rows = batch.to_pylist()
            for row in rows:
                row["captions"] = list(dict.fromkeys(row["captions"] + captions[place]))
                place += 1
            writer.write(rows)
        writer.close()
        os.replace(new, path)


def _final_name(shard: int, work: Work) -> str:
    """Name a shard as `datasets` does."""
    return f"data-{shard:05d}-of-{len(work.shards):05d}{Path(work.shards[shard]).suffix}"


def _shard_path(folder: Path, work: Work, shard: int) -> Path:
    """Return where a shard is, whether it has its final name already or not."""
    path = folder / work.shards[shard]
    return path if path.exists() else folder / _final_name(shard, work)


def _finish(
    folder: Path, reader: Reader, source: str, config: PackConfig, work: Work
) -> dict[str, Any]:
    """Give the folder the layout of `datasets`, and return the manifest that it gets as well."""
    shards: list[dict[str, Any]] = []
    for number in range(len(work.shards)):
        path = folder / _final_name(number, work)
        os.rename(_shard_path(folder, work, number), path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        rows = captions = 0
        for batch in read_batches(path):
            rows += batch.num_rows
            captions += len(batch.column("captions").flatten())
        counts = {"rows": rows, "captions": captions, "bytes": path.stat().st_size}
        shards.append({"file": path.name, **counts, "sha256": digest})
    if config.format == "arrow":
        _write_dataset_files(folder, shards)
    total = {key: sum(int(shard[key]) for shard in shards) for key in ("rows", "captions", "bytes")}
    versions = {name: importlib.metadata.version(name) for name in ("datasets", "pyarrow")}
    manifest = {
        "format": FORMAT,
        "source": source,
        "reader": reader.what,
        "split": config.split,
        **total,
        "skipped": len(work.skipped),
        "merged": len(work.merged),
        "settings": _settings(config),
        "versions": versions | {"pillow": PIL.__version__},
        "shards": shards,
        "skipped_items": work.skipped,
        "merged_items": [
            {key: each[key] for key in ("source", "image_id", "row")} for each in work.merged
        ],
    }
    write_json(folder / "manifest.json", manifest)
    (folder / JOURNAL).unlink()
    return manifest


def _write_dataset_files(folder: Path, shards: list[dict[str, Any]]) -> None:
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
    write_json(folder / "state.json", state)
    datasets.DatasetInfo(features=FEATURES).write_to_directory(str(folder))


def _push(out: Path, config: PackConfig) -> None:
    """Upload a packed folder to the hub."""
    table = find_reader(str(out)).table()
    table.push_to_hub(config.push, split=config.split or "train")


def _settings(config: PackConfig) -> dict[str, Any]:
    """Return what the result depends on."""
    elsewhere = ("out", "push", "workers")
    return {key: value for key, value in to_dict(config).items() if key not in elsewhere}


def _free_folder(out: str) -> Path:
    """Return the folder to write; a ``ValueError`` says why it cannot be."""
    if not out:
        raise ValueError("nowhere to write to; give --out FOLDER")
    path = Path(out)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another or delete it")
    return path
