"""`vilta clean RUN DATA --out FOLDER`: finds pairs that do not match and removes them."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet

from vilta.apps.cleaning import kept_pairs, match_pairs
from vilta.apps.image_input import open_image
from vilta.apps.matcher import Matcher
from vilta.apps.run_calibration import say_uncalibrated
from vilta.config.apps import CleanConfig
from vilta.config.ranges import check_config
from vilta.data.pack.journal import write_json
from vilta.data.samples import image_bytes
from vilta.data.sources import load_pairs
from vilta.data.sources.base import MANIFEST
from vilta.report.html import data_uri, document
from vilta.screen import command, notes, print_json, progress, results, say_next
from vilta.training.folder import replace_text, replaced_folder, require_writable_folder

THUMBNAIL = 240


def run(run_folder: str, data: str, config: CleanConfig) -> None:
    """Match every pair of ``data``; write a table, a page and, with ``keep_above``, the good pairs.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    if not config.out:
        raise ValueError("--out must name the folder to write")
    out = Path(config.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another --out")
    require_writable_folder(out)
    matcher = Matcher(run_folder, device=config.device, batch_size=config.batch_size)
    say_uncalibrated(matcher)
    table = load_pairs(data)
    with progress("matching") as tell:
        pairs = match_pairs(matcher, table, tell)
    bar = config.keep_above or 0.5
    chances = np.array(pairs.column("probability").to_pylist(), dtype=float)  # null: NaN
    summary: dict[str, Any] = {
        "pairs": len(chances),
        "broken": int(np.isnan(chances).sum()),
        f"below_{bar:g}": int((chances < bar).sum()),
        "median": float(np.nanmedian(chances)) if (~np.isnan(chances)).any() else None,
    }
    worst = pairs.slice(0, config.shown).to_pylist()
    kept, problem = None, ""
    if config.keep_above:
        try:
            kept = kept_pairs(table, pairs, config.keep_above)
            summary |= {"kept_images": len(kept), "kept_pairs": sum(map(len, kept["captions"]))}
        except ValueError as error:  # what was matched is written all the same
            problem = str(error)
    # Whole or not at all, so that the same command can be given again.
    with replaced_folder(out) as folder:
        pyarrow.parquet.write_table(pairs, folder / "pairs.parquet")
        replace_text(folder / "worst.html", page(data, table, worst))
        if kept is not None:
            kept.save_to_disk(str(folder / "kept"))
            about = {"rows": summary["kept_images"], "captions": summary["kept_pairs"]}
            about |= {"source": data, "reader": f"pairs that match with {config.keep_above:g}"}
            write_json(folder / "kept" / MANIFEST, about)
    if config.json:
        print_json(summary)
    else:
        for name, value in summary.items():
            shown = f"{value:.3f}" if isinstance(value, float) else value
            results.print(f"{name.replace('_', ' ')}: {shown}")
    rest = f", and what is left in {out / 'kept'}" if kept is not None else ""
    notes.print(
        f"wrote {out / 'pairs.parquet'} and {out / 'worst.html'}, the worst pairs first{rest}"
    )
    if problem:
        raise ValueError(problem)
    if kept is not None:
        say_next(command("inspect", str(out / "kept")))


def page(data: str, table: datasets.Dataset, worst: list[dict[str, object]]) -> str:
    """Return a page of the worst pairs with their images."""
    table = table.cast_column("image", datasets.Image(decode=False))
    cards = []
    for pair in worst:
        try:
            picture = open_image(image_bytes(table[pair["row"]]["image"]), THUMBNAIL)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            image = f'<img src="{data_uri(np.asarray(picture))}" alt="">'
            chance = f"{pair['probability']:.1%}"
        except ValueError:
            image, chance = "", escape(str(pair["reason"]))
        cards.append(
            f'<div class="card"><div class="pair">{image}<div class="text"><b>{chance}</b>'
            f"<p>{escape(str(pair['caption']))}</p><small>{escape(str(pair['image_id']))}</small>"
            "</div></div></div>"
        )
    head = [
        f"<h1>Worst-matching pairs of {escape(data)}</h1>",
        "<p>The worst first, by matching and contrast together. The percentage is the probability "
        "of a match by matching alone, which <code>--keep-above</code> compares.</p>",
        '<div class="grid">',
    ]
    return document(f"worst pairs of {data}", [*head, *cards, "</div>"])
