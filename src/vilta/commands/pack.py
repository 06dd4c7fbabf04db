"""`vilta pack SOURCE --out FOLDER`: checks image-text pairs and writes them as Arrow shards."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack
from vilta.screen import say_next

SHOWN = 5
"""Number of skipped items printed; the manifest lists all."""


def run(source: str, config: PackConfig) -> None:
    """Pack ``source`` into ``config.out`` and print a summary and the next command.

    Raises ``ValueError`` with one line, see :func:`vilta.data.pack.packing.pack`.
    """
    console = Console(markup=False, emoji=False)
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("packing", total=None, rate="")

        def advance(rows: int, total: int | None) -> None:
            bar.update(task, advance=rows, total=total)
            speed = bar.tasks[0].speed
            if speed:
                bar.update(task, rate=f"{speed:,.0f} images/s")

        try:
            manifest = pack(source, config, advance)
        except KeyboardInterrupt:
            console.print("stopped; the same command continues after the last complete shard")
            raise

    size = manifest["bytes"] / 2**20
    console.print(
        f"{manifest['reader']}: {manifest['rows']:,} images with {manifest['captions']:,} captions"
        f" -> {config.out} ({len(manifest['shards'])} shards, {size:,.1f} MiB, manifest.json)",
        soft_wrap=True,
        highlight=False,
    )
    if manifest["merged"]:
        console.print(f"{manifest['merged']:,} duplicates were merged with their captions")
    if config.push:
        console.print(f"uploaded to {config.push}", markup=False)
    if manifest["skipped"]:
        console.print(f"{manifest['skipped']:,} skipped; each is named in manifest.json:")
        for item in manifest["skipped_items"][:SHOWN]:
            console.print(f"  {item['source']}: {item['reason']}", markup=False, soft_wrap=True)
    say_next("vilta", "inspect", config.out)
