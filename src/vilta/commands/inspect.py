"""`vilta inspect SOURCE`: checks image-text pairs before a long run."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table as ScreenTable

from vilta.config.ranges import check_config
from vilta.config.tools import InspectConfig, SourceFlags
from vilta.data.inspection import (
    Inspection,
    inspect_pairs,
    repeated,
    same_captions,
    same_images,
)
from vilta.data.pack.packing import source_options
from vilta.data.resizing import shrink
from vilta.data.sources import PairRow, Reader, find_reader, nothing_usable
from vilta.data.sources.base import manifest_of
from vilta.decoding import decode_image
from vilta.report.curves import DARK, LIGHT, Theme, style_axes
from vilta.report.html import (
    Table,
    Tile,
    data_uri,
    document,
    picture_element,
    require_html,
    table_element,
    tile_element,
)
from vilta.screen import Tell, command, free_folder, notes, progress, results, say_next, shown
from vilta.training.folder import replace_text, require_writable

NAMED = 10
"""Maximum number of duplicates, skipped and broken items listed."""
SHEET_SIDE = 160
"""Short side of the images on the contact sheet, in pixels."""
FREQUENT = 20
"""Number of words listed."""
BLUE = "#3f7fd6"


def run(source: str, config: InspectConfig) -> dict[str, Any]:
    """Read ``source`` once, print tables of statistics, write a page, and return the numbers.

    Raises ``ValueError`` with one line for a source that cannot be used.
    """
    check_config(config)
    out = Path(config.out or "inspection.html")
    require_html(str(out))
    require_writable(out)
    reader = find_reader(source, source_options(config))
    sheet = ContactSheet(config.examples)
    found = _read(reader, sheet)
    tables, other = _tables(reader, found), None
    if config.against:
        there = replace(source_options(config), split=config.against_split, images="")
        others = find_reader(config.against, there)
        other = _read(others)
        tables["overlap with the other data"] = _leakage(found, other, others.name)
    for number, (title, table) in enumerate(tables.items()):
        on_screen = ScreenTable(*table.head, title=title, title_justify="left", box=None)
        for row in table.rows:
            on_screen.add_row(*row)
        results.print(*[""] * (number > 0), on_screen)
    replace_text(out, _page(reader, found, tables, sheet))
    notes.print(f"wrote {out}; open it in a browser")
    say_next(next_command(source, config))
    return {**_numbers(reader, found), **(_shared(found, other) if other else {}), "page": str(out)}


def next_command(source: str, config: InspectConfig) -> str:
    """Return the call that trains on these pairs, or that packs them, read as they were here."""
    if manifest_of(source):  # packed already
        packed = config.against and manifest_of(config.against)
        val = ["--data.val", config.against] if packed else []
        return command(
            "pretrain", "--data.train", source, *val, "--run.out", free_folder("runs/mine")
        )
    given = {field.name: getattr(config, field.name) for field in fields(SourceFlags)}
    flags = [[f"--{name.replace('_', '-')}", value] for name, value in given.items() if value]
    return command("pack", source, *chain(*flags), "--out", "data/NAME")


class ContactSheet:
    """Keeps evenly spread rows of a stream of unknown length: every 2^k-th."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.every, self.seen = wanted, 1, 0
        self.rows: list[PairRow] = []

    def offer(self, row: PairRow) -> None:
        """Keep the row if it is due."""
        if self.seen % self.every == 0:
            self.rows.append(row)
            if len(self.rows) >= 2 * max(self.wanted, 1):
                self.rows, self.every = self.rows[::2], 2 * self.every
        self.seen += 1


def _read(reader: Reader, sheet: ContactSheet | None = None) -> Inspection:
    total = reader.total

    def rows(tell: Tell) -> Iterator[PairRow]:
        for number, row in enumerate(reader.rows(), 1):
            if sheet is not None:
                sheet.offer(row)
            yield row
            tell(number, total and max(total, number))

    with progress(f"reading {shown(reader.name)}", "images") as tell:
        found = inspect_pairs(rows(tell))
    if not found.images:
        raise ValueError(nothing_usable(reader, reader.skipped))
    return found


def _numbers(reader: Reader, found: Inspection) -> dict[str, Any]:
    """Return the statistics of one source by name."""
    width, height = found.median_size()
    copies, looks = repeated(found.by_content.values()), repeated(found.by_hash.values())
    return {
        "format": reader.what,
        "images": found.images,
        "captions": found.captions,
        "bytes": found.total_bytes,
        "median_width": width,
        "median_height": height,
        "distinct_words": len(found.words),
        "repeated_captions": found.repeated_captions(),
        "identical_images": sum(map(len, copies)) - len(copies),
        "similar_images": sum(map(len, looks)) - len(looks),
        "broken_images": len(found.broken),
        "skipped": len(reader.skipped),
    }


def _shared(found: Inspection, other: Inspection) -> dict[str, int]:
    """Return how much of the other data these data contain."""
    return {
        "shared_images": len(same_images(found, other)),
        "shared_captions": same_captions(found, other),
    }


def _tables(reader: Reader, found: Inspection) -> dict[str, Table]:
    width, height = found.median_size()
    lengths = sorted(found.words_per_caption.elements())
    copies, looks = repeated(found.by_content.values()), repeated(found.by_hash.values())
    once = sum(count == 1 for count in found.words.values())
    middle, high = (lengths[int(q * (len(lengths) - 1))] for q in (0.5, 0.99))
    metrics = [
        ("found", reader.what),
        ("images", f"{found.images:,}"),
        ("captions", f"{found.captions:,}"),
        ("captions per image", f"{found.captions / found.images:.1f}"),
        ("bytes", f"{found.total_bytes / 2**20:,.1f} MiB"),
        ("median size", f"{width:.0f} x {height:.0f} pixels"),
        ("formats", ", ".join(f"{name} {count:,}" for name, count in found.formats.most_common())),
        ("words per caption: median, 99th percentile", f"{middle}, {high}"),
        ("distinct words (of these, occurring once)", f"{len(found.words):,} ({once:,})"),
        ("captions that repeat another", f"{found.repeated_captions():,}"),
        ("images with the same bytes as another", f"{sum(map(len, copies)) - len(copies):,}"),
        ("images that look like another", f"{sum(map(len, looks)) - len(looks):,}"),
        ("images that cannot be decoded", f"{len(found.broken):,}"),
        ("items skipped by the reader", f"{len(reader.skipped):,}"),
    ]
    tables = {"pairs": Table(("", "value"), metrics)}
    known = set(map(tuple, copies))
    kinds = {
        "identical bytes": copies,
        "similar picture": [g for g in looks if tuple(g) not in known],
    }
    groups: list[tuple[str, str]] = []
    for kind, of_kind in kinds.items():
        groups += [(kind, _some([found.names[row] for row in group])) for group in of_kind[:NAMED]]
        groups += _and_more(of_kind)
    if groups:
        tables["duplicates"] = Table(("duplicates by", "images"), groups)
    bad = [*found.broken, *((s.source, s.reason) for s in reader.skipped)]
    if bad:
        reasons = Counter(reason.split(":")[0] for _, reason in bad)
        rows = [(f"{count:,}", reason) for reason, count in reasons.most_common(NAMED)]
        tables["skipped"] = Table(("items", "reason"), rows)
        tables["skipped, first items"] = Table(("item", "reason"), [*bad[:NAMED], *_and_more(bad)])
    words = [(word, f"{count:,}") for word, count in found.words.most_common(FREQUENT)]
    tables["most frequent words"] = Table(("word", "count"), words)
    return tables


def _leakage(found: Inspection, other: Inspection, name: str) -> Table:
    """Return a table of the images and captions that both data sets contain."""
    images = same_images(found, other)
    share = 100 * len(images) / other.images
    captions = same_captions(found, other)
    kinds = Counter(how for *_, how in images)
    rows = [
        ("images", f"{len(images):,} of {other.images:,} ({share:.1f} %) of {name}"),
        *((f"of these by {kind}", f"{count:,}") for kind, count in kinds.items()),
        ("distinct captions", f"{captions:,} of {len(other.by_caption):,}"),
        *((how, f"{here} = {there}") for here, there, how in images[:NAMED]),
        *_and_more(images),
    ]
    return Table(("", "in both"), rows)


def _some(names: list[str]) -> str:
    """Return the first names of a group of images, and how many more there are."""
    more = [f"{len(names) - 4:,} more"] * (len(names) > 4)
    return ", ".join([*names[:4], *more])


def _and_more(every: Sequence[object]) -> list[tuple[str, str]]:
    """Return a row that counts those of a list that are not named."""
    return [("", f"and {len(every) - NAMED:,} more")] * (len(every) > NAMED)


def _page(reader: Reader, found: Inspection, tables: dict[str, Table], sheet: ContactSheet) -> str:
    width, height = found.median_size()
    tiles = [
        Tile(f"{found.images:,}", "images", reader.what),
        Tile(f"{found.captions:,}", "captions", f"{found.captions / found.images:.1f} an image"),
        Tile(f"{width:.0f} x {height:.0f}", "pixels", "median size"),
        Tile(f"{len(found.words):,}", "distinct words", "ignoring case"),
    ]
    plots = (_plots(found, LIGHT), _plots(found, DARK))
    step = max(1, len(sheet.rows) // max(1, sheet.wanted))
    return document(
        f"{reader.name}: image-text pairs",
        [
            f"<h1>{escape(reader.name)}</h1>",
            '<div class="tiles">',
            *map(tile_element, tiles),
            "</div>",
            "<h2>Distributions</h2>",
            picture_element(*plots, "words per caption, captions per image, image sizes"),
            "<h2>Contact sheet</h2>",
            "<p>Evenly spaced rows of the data, not selected.</p>",
            '<div class="grid">',
            *(_card(row) for row in sheet.rows[::step][: sheet.wanted]),
            "</div>",
            "<h2>All metrics</h2>",
            '<div class="tables">',
            *(table_element(title, table) for title, table in tables.items()),
            "</div>",
        ],
    )


def _card(row: PairRow) -> str:
    """Return an image with its captions, or what is wrong with it."""
    try:
        image = shrink(decode_image(row["image"]["bytes"], SHEET_SIDE), SHEET_SIDE)
        picture = f'<img src="{data_uri(np.asarray(image))}" alt="{escape(row["image_id"])}">'
    except ValueError as error:
        picture = f"<p>{escape(str(error))}</p>"
    captions = "".join(f"<li>{escape(caption)}</li>" for caption in row["captions"][:5])
    text = f'<div class="text"><small class="faint">{escape(row["image_id"])}</small>'
    return (
        f'<div class="card"><div class="pair">{picture}{text}<ol>{captions}</ol></div></div></div>'
    )


def _plots(found: Inspection, theme: Theme) -> bytes:
    """Draw the distributions as four small panels; PNG."""
    figure = Figure(figsize=(12.4, 2.6), layout="constrained", facecolor=theme.ground)
    panels = figure.subplots(1, 4)
    lengths = np.array(list(found.words_per_caption.elements()) or [0])
    counts = np.array(list(found.captions_per_image.elements()))
    sides = np.minimum(found.widths, found.heights) if found.widths else np.array([0])
    shapes = np.divide(found.widths, found.heights) if found.widths else np.array([1])
    for axes, (title, values) in zip(
        panels,
        {
            "words per caption": lengths,
            "captions per image": counts,
            "short side, pixels": sides,
            "width / height": shapes,
        }.items(),
        strict=True,
    ):
        whole = values.dtype.kind == "i" and np.ptp(values) < 40
        edges = np.arange(values.min(), values.max() + 2) - 0.5 if whole else 40
        axes.hist(np.clip(values, None, np.quantile(values, 0.995)), bins=edges, color=BLUE)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=bool(whole)))
        style_axes(axes, title, theme)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()
