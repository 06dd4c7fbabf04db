"""Settings of the commands that use a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vilta.config.ranges import Count, CountOrZero, Positive, Range, Share


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Settings that these commands share."""

    json: bool = False
    """Print results as lines of JSON."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(AppConfig):
    """Find photos in a folder by text, or by similarity to another photo.

    The folder is indexed first; later calls only process what changed. In a query, ` +a hat` adds a
    text that must match as well, and ` -people` one that must not.
    """

    like: str = ""
    """Image file to find similar photos to; combined with the query if there is one."""
    plus: tuple[str, ...] = ()
    """Further texts that must match."""
    minus: tuple[str, ...] = ()
    """Texts that must not match."""
    top: Count = 10
    """Maximum number of photos to show."""
    threshold: Annotated[float, Range(-1, 1)] = -1.0
    """Only show photos with at least this match probability; 0 always shows the best. Negative: the
    model's own threshold, which nine of ten held-out searches that have an answer reach."""
    rerank: Count = 50
    """Candidates of the contrastive search that matching re-ranks; at least `--top`."""
    out: str = ""
    """HTML page of the results to write."""
    index: str = ""
    """Folder of the index. Empty: a folder in the user's cache."""
    why_skipped: bool = False
    """List the files that are not in the index, and why."""


@dataclass(frozen=True, kw_only=True)
class MatchConfig(AppConfig):
    """Show how well captions match an image, and how much each word contributes."""

    out: str = ""
    """PNG file for the heat maps: the image regions that each word's contribution comes from.
    Further captions go to files with -2, -3, ... before the suffix."""


@dataclass(frozen=True, kw_only=True)
class ProofreadConfig(AppConfig):
    """Find the words of a caption that the image does not support."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a model over HTTP: a web page, and an API that /openapi.json describes."""

    folder: str = ""
    """Folder of photos to search. It is indexed before the server starts."""
    index: str = ""
    """Folder of the index. Empty: a folder in the user's cache."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but localhost admits other machines, without a password."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0: any free port."""
    allow_host: tuple[str, ...] = ()
    """Further host names to accept in the Host header; `*` accepts any."""
    max_bytes: Count = 20_000_000
    """Maximum size of a request in bytes."""
    max_pixels: Count = 25_000_000
    """Maximum number of pixels of an image."""
    waiting: Count = 64
    """Maximum number of requests waiting for the model; further ones are rejected."""
    seconds: Positive = 30.0
    """Maximum time for which a request may wait for its answer."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class CleanConfig(AppConfig):
    """Find image-text pairs that do not match: score every pair and list the worst first."""

    out: str = ""
    """Required. Folder to write: pairs.parquet, worst.html and, with --keep-above, kept/."""
    keep_above: Share = 0.0
    """Also write the pairs with at least this match probability to kept/, ready for training; 0: do
    not write them."""
    shown: CountOrZero = 120
    """Number of pairs on the page."""
    batch_size: Count = 64
    """Images per forward pass."""


@dataclass(frozen=True, kw_only=True)
class NegativesConfig(AppConfig):
    """Generate hard negatives: captions in which a changed word makes them fluent but wrong.

    Use them to train or test any other model, such as CLIP (as in NegCLIP).
    """

    out: str = ""
    """Required. Parquet file to write; a data card, NAME-card.md, is written next to it."""
    per_caption: Count = 1
    """Attempts per caption; duplicates are dropped."""
    filter: Literal["", "grounded", "soft_label", "none"] = ""
    """Filter of the replacements, see `objective.negatives`. Empty: the filter of the run."""
    min_match: Share = 0.0
    """Skip captions whose own match probability is lower: a wrong caption does not make a hard
    negative."""
    seed: int = 0
    """Seed of the choice of words and of their replacements."""
    batch_size: Count = 64
    """Images per forward pass."""
