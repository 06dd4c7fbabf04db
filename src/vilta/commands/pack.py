"""`vilta pack SOURCE --out FOLDER`: checks image-text pairs and writes them as Arrow shards."""

from __future__ import annotations

from typing import Any

from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack
from vilta.screen import command, counted, notes, progress, results, say_next

SHOWN = 5
"""Number of skipped items printed; the manifest lists all."""


def run(source: str, config: PackConfig) -> dict[str, Any]:
    """Pack ``source`` into ``config.out``; print and return a summary.

    Raises ``ValueError`` with one line, see :func:`vilta.data.pack.packing.pack`.
    """
    with progress("packing", "images") as tell:
        manifest = pack(source, config, tell)

    size = manifest["bytes"] / 2**20
    results.print(
        f"{manifest['reader']}: {counted(manifest['rows'], 'image')} with "
        f"{counted(manifest['captions'], 'caption')} -> {config.out} "
        f"({counted(len(manifest['shards']), 'shard')}, {size:,.1f} MiB, manifest.json)"
    )
    if manifest["merged"]:
        one, many = "duplicate was merged with its", "duplicates were merged with their"
        results.print(f"{counted(manifest['merged'], one, many)} captions")
    if config.push:
        notes.print(f"uploaded to {config.push}")
    if manifest["skipped"]:
        results.print(f"{manifest['skipped']:,} skipped; each is named in manifest.json:")
        for item in manifest["skipped_items"][:SHOWN]:
            results.print(f"  {item['source']}: {item['reason']}")
    say_next(command("inspect", config.out))
    numbers = {name: manifest[name] for name in ("rows", "captions", "bytes", "merged", "skipped")}
    return {"out": config.out, "shards": len(manifest["shards"]), **numbers}
