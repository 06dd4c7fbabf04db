"""Settings of the verbs that use a trained model, in the form of ``vilta.config``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vilta.config.ranges import Count, CountOrZero, Positive, Range, Share


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """Settings that all verbs with a trained model share."""

    json: bool = False
    """Print results as lines of JSON."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(AppConfig):
    """Find photos in a folder by words, or by another photo.

    The folder is indexed first; later calls look only at what changed. In the query, ` +a hat` must
    hold as well and ` -people` must not.
    """

    like: str = ""
    """Image file to find the like of; with a query, both count."""
    plus: tuple[str, ...] = ()
    """Texts that must hold as well."""
    minus: tuple[str, ...] = ()
    """Texts that must not hold."""
    top: Count = 10
    """Most photos to show."""
    threshold: Annotated[float, Range(-1, 1)] = -1.0
    """Show only photos that match with at least this probability; 0 shows the best in any case.
    Below 0: the model's own, which nine in ten held-out searches with an answer reach."""
    rerank: Count = 50
    """Candidates of the contrastive search that matching looks at closely."""
    out: str = ""
    """HTML file to write with what was found."""
    index: str = ""
    """Folder that keeps the index. Empty: one in the user's cache; never among the photos."""
    why_skipped: bool = False
    """List the files that are not in the index, and why."""


@dataclass(frozen=True, kw_only=True)
class MatchConfig(AppConfig):
    """Say how well captions match an image, and which words carry the match."""

    out: str = ""
    """PNG file to write with a heat map for each word: where in the image its share of the match
    comes from. With several captions, -2, -3 ... go before the suffix."""


@dataclass(frozen=True, kw_only=True)
class ProofreadConfig(AppConfig):
    """Find the words of a caption that the image does not bear out."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a model over HTTP, with a page for people; its routes are in /openapi.json."""

    folder: str = ""
    """Folder of photos to search; indexed before the server starts."""
    index: str = ""
    """Folder that keeps the index. Empty: one in the user's cache; never among the photos."""
    host: str = "127.0.0.1"
    """Address to listen on. Other than localhost, it lets others in: there is no password."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0: any free one."""
    allow_host: tuple[str, ...] = ()
    """More names under which the server answers, as given in the Host header; `*`: any."""
    max_bytes: Count = 20_000_000
    """Most bytes of one request."""
    max_pixels: Count = 25_000_000
    """Most pixels of one image."""
    waiting: Count = 64
    """Maximum number of requests that wait for the model; further ones are turned away."""
    seconds: Positive = 30.0
    """Longest that a request may wait."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class CleanConfig(AppConfig):
    """Find image-text pairs that do not match: every pair's probability, the worst first."""

    out: str = ""
    """Required. Folder to write: pairs.parquet, worst.html and, with --keep-above, kept/."""
    keep_above: Share = 0.0
    """Also write the pairs that match with at least this probability to kept/, ready for training;
    0: do not."""
    shown: CountOrZero = 120
    """Worst pairs on the page."""
    batch_size: Count = 64
    """Images in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class NegativesConfig(AppConfig):
    """Write hard negatives: captions with a word changed such that they read well and are wrong.

    They serve to train or to test any model, a CLIP for instance (NegCLIP).
    """

    out: str = ""
    """Required. Parquet file to write; its card goes beside it as NAME-card.md."""
    per_caption: Count = 1
    """Tries for each caption; what was written before is left out."""
    filter: Literal["", "grounded", "soft_label", "none"] = ""
    """Which words are too plausible to be wrong: see `objective.negatives`. Empty: the run's."""
    min_match: Share = 0.0
    """Leave out captions that match their image with a lower probability: a caption that is wrong
    itself makes no hard negative."""
    seed: int = 0
    """Decides which word of a caption is rewritten, and by which."""
    batch_size: Count = 64
    """Images in one forward pass."""
