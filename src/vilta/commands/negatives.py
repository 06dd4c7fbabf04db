"""`vilta negatives RUN DATA --out FILE.parquet`: hard negatives to train other models with."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from vilta.apps.generated_negatives import SCHEMA, generate_negatives
from vilta.apps.released import require_trained
from vilta.config.apps import NegativesConfig
from vilta.config.ranges import check_config
from vilta.data.sources import load_pairs
from vilta.finished_run import load_run
from vilta.screen import counted, notes, print_json, progress, results
from vilta.training.folder import replace_text, require_writable
from vilta.training.precision import choose_device
from vilta.version import __version__

SHOWN = 5
"""Negatives that are printed."""
CARD = """\
---
task_categories: [zero-shot-image-classification, image-to-text]
tags: [hard-negatives, image-text, vilta]
---

# Hard negatives for image-text pairs

{lines:,} negatives, each a caption with one word changed, for {captions:,} of the {total:,}
captions of `{data}`. The text encoder of a ViLTA model (vilta {version}, run `{run}`) proposed each
replacement from the context, without the image; the filter `{filter}` was applied to the proposals.

{warning}

| column | meaning |
|---|---|
| `image_id`, `source` | the image and where it is from |
| `caption`, `negative` | the original caption, and the same with one word changed |
| `word`, `instead` | the original word and its replacement |
| `start`, `end` | characters of the original word in the caption |
| `text_probability` | probability of `instead` given the other words |
| `image_probability`, `word_image_probability` | of `instead` and of `word`, given also the image |
| `match`, `negative_match` | probability that caption and negative match the image |
| `filter` | the filter that was used |

The captions come from the source and keep its licence. Images are not included.

```python
from datasets import load_dataset

negatives = load_dataset("parquet", data_files="{name}", split="train")
```
"""
WARNING = {
    "grounded": "A negative may still be true of its image, though rarely.",
    "other": "Without the grounded filter many negatives are still true of their image.",
}
"""How often, on scenes whose truth is known, is in vilta's README."""


def run(run_folder: str, data: str, config: NegativesConfig) -> None:
    """Write the negatives and their card.

    Raises ``ValueError`` in one line for anything the user can fix.
    """
    check_config(config)
    if not config.out.endswith(".parquet"):
        raise ValueError(
            f"--out must name a Parquet file, such as negatives.parquet; got {config.out!r}"
        )
    require_writable(config.out)
    task, trained, _ = load_run(run_folder)
    require_trained("matching", task.model, run_folder)
    name = config.filter or task.objective.negatives
    if name == "off" or (name == "soft_label" and task.teacher is None):
        raise ValueError(
            f"{run_folder} has no teacher for the filter {name!r}; use --filter grounded"
        )
    task.objective = replace(task.objective, negatives=name)
    collator = task.collator(trained.data.max_text_tokens, config.seed)
    task.to(choose_device(config.device)).eval()
    table = load_pairs(data)
    with progress("writing") as tell:
        found = generate_negatives(
            task,
            collator,
            table,
            filter_name=name,
            tries=config.per_caption,
            batch_size=config.batch_size,
            seed=config.seed,
            progress=tell,
        )
        lines = [line for line in found if line["match"] >= config.min_match]
    if not lines:
        raise ValueError("no negatives: the filter or --min-match rejected everything")
    out = Path(config.out)
    temporary = out.parent / f".tmp-{out.name}"
    pyarrow.parquet.write_table(pa.Table.from_pylist(lines, SCHEMA), temporary)
    os.replace(temporary, out)
    total = sum(map(len, table["captions"]))
    summary = {"negatives": len(lines), "captions_with_one": _captions(lines), "captions": total}
    card = out.with_name(f"{out.stem}-card.md")
    text = CARD.format(
        lines=len(lines),
        captions=summary["captions_with_one"],
        total=total,
        data=data,
        run=Path(run_folder).resolve().name,
        version=__version__,
        filter=name,
        warning=WARNING.get(name, WARNING["other"]),
        name=out.name,
    )
    replace_text(card, text)
    if config.json:
        print_json(summary)
    else:
        results.print(
            f"{counted(len(lines), 'negative')} for {summary['captions_with_one']:,} of "
            f"{counted(total, 'caption')}"
        )
        for line in lines[:SHOWN]:
            chance = f"{line['negative_match']:.0%} match"
            results.print(f"  {line['caption']}\n  -> {line['negative']}  ({chance})")
    notes.print(f"wrote {out} and {card}")


def _captions(lines: list[dict[str, Any]]) -> int:
    return len({(line["image_id"], line["caption"]) for line in lines})
