"""`vilta export RUN`: ONNX files of a model, and a script that needs neither torch nor vilta."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from rich.table import Table

from vilta.apps.onnx_export import SCRIPT, TOLERANCE, export_onnx, largest_difference
from vilta.apps.pair_rows import readable_rows
from vilta.apps.released import Released, load_released
from vilta.config.ranges import check_config
from vilta.config.tools import ExportConfig
from vilta.data.sources import load_pairs
from vilta.screen import notes, results, say_next, shown
from vilta.training.folder import MODEL, model_folder, replace_text, require_writable_folder

BATCH = 64
"""Images that are read together."""


def run(run_folder: str, config: ExportConfig) -> dict[str, Any]:
    """Write ``RUN/onnx``, check it against torch and, given ``data``, measure what int8 costs.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    if not config.onnx:
        raise ValueError("nothing to write: --onnx is the only format so far")
    released = load_released(run_folder)
    place = model_folder(run_folder)
    out = Path(config.out) if config.out else place.parent / "onnx"
    if not config.out and place.name != MODEL:
        raise ValueError(f"{run_folder} is not a run; --out must name the folder to write")
    if out.exists() and not (out / SCRIPT).is_file():
        raise ValueError(f"{out} exists and is not an export; choose another --out")
    require_writable_folder(out)
    pairs = load_pairs(config.data) if config.data else None  # before the work, which takes longer
    with notes.status("exporting (half a minute for a small model)"):
        export_onnx(released.model, released.tokenizer, out, int8=config.int8)
        difference = largest_difference(released.model.float().eval(), out)
    if difference > TOLERANCE:
        raise ValueError(
            f"the export differs from torch by {difference:.1e}, more than {TOLERANCE:.0e}; "
            f"do not use {out}"
        )
    results.print(f"wrote {out}: equal to torch within {difference:.1e}")
    summary: dict[str, Any] = {"out": str(out), "largest_difference": difference}
    if pairs is not None:
        summary |= measure(released, out, pairs, config)
    flag = ["--int8"] if config.int8 else []
    say_next(shlex.join(["python", str(out / SCRIPT), "PHOTOS", "two dogs run on a beach", *flag]))
    return summary


def measure(
    released: Released, out: Path, pairs: datasets.Dataset, config: ExportConfig
) -> dict[str, Any]:
    """Print, store and return R@1 of torch, of the ONNX models, and of the quantised ones.

    Images that cannot be read are named and left out; ``ValueError`` if none is left.
    """
    from vilta.apps.onnx_ranker import Ranker  # needs the extra, which export_onnx has checked
    from vilta.apps.onnx_recall import recall_by_onnx, recall_by_torch

    table = pairs.select(range(min(config.images, len(pairs))))
    broken: list[tuple[int, str]] = []
    batches, captions = [], []
    for batch in readable_rows(table, released.model.config.image_size, BATCH, broken):
        batches.append(batch.pixels)
        captions += [row["captions"] for row in batch.rows]
    for number, reason in broken:
        name = table.select_columns("image_id")[number]["image_id"]
        notes.print(f"left out {shown(name)}: {reason}")
    if not batches:
        raise ValueError(f"no image of {config.data} can be read; --data must name others")
    images = np.concatenate(batches)
    data, among = (images, captions, config.top_k), f"R@1 among {len(images):,} images"
    with notes.status(among):
        recalls = {
            "torch": recall_by_torch(released.model, released.tokenizer, *data),
            "onnx": recall_by_onnx(Ranker(out), *data),
        }
        if config.int8:
            recalls["onnx int8"] = recall_by_onnx(Ranker(out, int8=True), *data)
    ways = (way.replace("_", " ") for way in recalls["torch"])
    figures = Table(among, *ways)
    for name, values in recalls.items():
        figures.add_row(name, *(f"{value:.1f}" for value in values.values()))
    results.print(figures)
    content = {"data": config.data, "images": len(images), "top_k": config.top_k, "R@1": recalls}
    replace_text(out / "recall.json", json.dumps(content, indent=2) + "\n")
    return content
