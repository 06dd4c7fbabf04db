"""Settings of the commands that do not train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from vilta.config.ranges import Count, CountOrZero, Range

From = Annotated[str, tyro.conf.arg(name="from")]
"""``from`` is a keyword of Python, so the field is named differently from its flag."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a run: zero-shot retrieval, masked words and matching, or a task by its own rules."""

    task: str = ""
    """What to measure: `retrieval`, `vqa`, `nlvr2`, `snli-ve`, `fine-grained`, `masked-words`,
    `classification`, a `module:Class`, or `pretraining`. Empty: what the run was trained for."""

    data: str = ""
    """Required. Image-text pairs (a packed folder or any source that `vilta pack` reads), or for a
    task its items in a supported layout."""
    start: From = ""
    """Obsolete: the run now comes first. The error message shows the current syntax."""
    images: str = ""
    """For a task: the folder or source of the images, if they are not next to the items."""
    submission: str = ""
    """For a task: also write the answers to this file, in the official format."""
    accept_trained: bool = False
    """For a task: evaluate even if the run was trained on images of this data."""
    out: str = ""
    """JSON file for the metrics. Empty: a file in the run, named after the data."""
    top_k: Count = 32
    """Candidates of the contrastive stage that image-text matching re-ranks."""
    full: bool = False
    """Score every image-text pair by matching, as methods without a first stage do."""
    folds: CountOrZero = 0
    """For retrieval as a task: average over this many parts of the images (COCO 1k: 5)."""
    calibrate: bool = False
    """First calibrate the match probabilities on these image-text pairs, and save the result with
    the model. Pre-training and retrieval do this on `data.val` when they end."""
    batch_size: Count = 128
    """Pairs per forward pass."""
    seed: int = 0
    """Seed of the masks and of the negatives."""
    workers: CountOrZero = 0
    """Loader processes."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """`auto` measures both on this machine with products of the model's own sizes and takes the
    faster."""


@dataclass(frozen=True, kw_only=True)
class SourceFlags:
    """How to read a source of image-text pairs; empty settings are detected."""

    split: str = ""
    """Split of a source that has several, e.g. train, val, test."""
    image_column: str = ""
    """Column of a table that holds or names the images, if it is not detected."""
    caption_column: str = ""
    """Column that holds the caption, if it is not detected; several are joined by commas."""
    images: str = ""
    """Folder of the images that a file names, if they are not below the folder of the file."""
    encoding: str = ""
    """Encoding of text files that are not UTF-8, e.g. latin-1."""


@dataclass(frozen=True, kw_only=True)
class PackConfig(SourceFlags):
    """Write image-text pairs as Arrow shards with the image bytes inside."""

    out: str = ""
    """Required. Output folder: shards for `datasets.load_from_disk`, and manifest.json."""
    region_crops: bool = False
    """Visual Genome: crop each region to an image of its own, instead of using regions as captions
    of the whole image."""
    short_side: CountOrZero = 0
    """Shrink images so that the short side has this many pixels; 0: keep the original bytes."""
    merge_duplicates: bool = True
    """Merge images with identical bytes and combine their captions."""
    format: Literal["arrow", "parquet"] = "arrow"
    """`arrow` is mapped into memory for training; `parquet` is for exchange."""
    push: str = ""
    """Data set on the hub (owner/name) to upload the result to."""
    shard_rows: Count = 10_000
    """Rows per shard."""
    workers: CountOrZero = 0
    """Threads that decode and shrink images; 0: one per core. The result does not depend on it."""
    strict: bool = False
    """Stop at the first unreadable sample instead of skipping and counting it."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig(SourceFlags):
    """Inspect image-text pairs before training: statistics on screen, and a page with pictures."""

    against: str = ""
    """Other pairs, such as evaluation data: report the images and captions that both contain."""
    against_split: str = ""
    """Split of `against`."""
    out: str = ""
    """HTML file to write. Empty: `inspection.html` in the current folder."""
    examples: CountOrZero = 24
    """Images on the contact sheet."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Draw a run: one page with curves, metrics and examples that opens offline."""

    out: str = ""
    """HTML file to write. Empty: `report/report.html` in the run. Pictures are saved next to it."""
    examples: Annotated[int, Range(2)] = 12
    """Images shown with their captions, masked words and synthesised negatives. At least 2: each is
    also shown with the image of another."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model as ONNX files, for use without torch (needs the extra `onnx`)."""

    onnx: bool = True
    """Write ONNX, the only format so far."""
    out: str = ""
    """Folder to write. Empty: `onnx` in the run."""
    int8: bool = False
    """Also write models with int8 weights: smaller, and faster on CPUs with int8 instructions."""
    data: str = ""
    """Image-text pairs, as for `vilta evaluate`, on which to compare R@1 of torch and ONNX."""
    images: Count = 1000
    """Number of images of `data` to use, from the first on."""
    top_k: Count = 32
    """Candidates of the contrastive stage that matching re-ranks."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert a checkpoint of METER to a model folder that every other command accepts."""

    out: str = ""
    """Required. Folder to write."""
    text: str = "FacebookAI/roberta-base"
    """Text encoder that the checkpoint started from (hub id or folder): its tokenizer, its
    configuration and its language-model head are not in the checkpoint."""
