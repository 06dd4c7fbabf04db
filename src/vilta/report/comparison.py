"""The page of a comparison: verdict, curves, tables, and items on which the arms disagree."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vilta.report.comparison_curves import draw_comparison
from vilta.report.comparison_prose import how_computed, setup, verdict
from vilta.report.comparison_tables import sections
from vilta.report.comparison_words import has_curves
from vilta.report.curves import DARK
from vilta.report.html import data_uri, document, picture_element, table_element


def comparison_page(
    summary: dict[str, Any], pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]]
) -> str:
    """Return the page; ``pictures`` are those of the items, by the name of the image."""
    arms = ", ".join(summary["about"]["arms"])
    about = summary["about"]
    parts = [
        f"<h1>{escape(arms)}</h1>",
        f'<p class="faint">A comparison by <code>vilta ablate</code>, {escape(summary["made"])}; '
        f"{escape(about['budget'])} a run, {len(about['seeds'])} seeds</p>",
        '<ul class="verdict">',
        *(f"<li>{escape(text)}</li>" for text in verdict(summary)),
        "</ul>",
    ]
    if has_curves(summary):
        parts += [
            "<h2>On the way</h2>",
            '<p class="faint">Mean over seeds, the band from the lowest seed to the highest; '
            f"dotted: where {escape(about['baseline'])} ends.</p>",
            picture_element(
                draw_comparison(summary), draw_comparison(summary, DARK), "measures over samples"
            ),
        ]
    for section in sections(summary):
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.text:
            parts.append(f'<p class="faint">{_code(section.text)}</p>')
        shown = [table_element(title, table) for title, table in section.tables]
        # A row of differences, which has no name, is wide.
        narrow = all(
            len(table.head) <= 4 and all(row[0] for row in table.rows)
            for _, table in section.tables
        )
        many = len(shown) > 1 and narrow
        parts += ['<div class="tables">', *shown, "</div>"] if many else shown
    parts += _disagreements(summary, pictures)
    parts.append("<h2>What is equal, and what was measured</h2>")
    parts += [f"<p>{escape(text)}</p>" for text in setup(summary)]
    parts.append("<h2>How each figure was computed</h2>")
    parts += [f"<p>{_code(text)}</p>" for text in how_computed(summary)]
    settings = escape(json.dumps(about, indent=1))
    parts.append(f"<details><summary>The settings</summary><pre>{settings}</pre></details>")
    return document(f"Comparison: {arms}", ['<div class="comparison">', *parts, "</div>"])


def _disagreements(
    summary: dict[str, Any], pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]]
) -> list[str]:
    parts = []
    for arm, items in summary["disagreements"].items():
        if not items:
            continue
        cards = "".join(_card(item, pictures) for item in items)
        base = escape(summary["about"]["baseline"])
        parts.append(f"<h3>{escape(arm)} and {base}</h3>")
        parts.append(f'<div class="grid">{cards}</div>')
    if parts:
        text = (
            "Items on which they differ most, half of them in favour of each: how far the true "
            "caption is above the edit, in log-odds of a match, mean over seeds."
        )
        parts = ["<h2>Where they disagree</h2>", f'<p class="faint">{text}</p>', *parts]
    return parts


def _card(item: dict[str, Any], pictures: Mapping[str, UInt8[np.ndarray, "H W 3"]]) -> str:
    """One item: its picture, the caption and the edit, and both margins."""
    shown = pictures.get(item["image"])
    image = "<span></span>" if shown is None else f'<img src="{data_uri(shown)}" alt="">'
    caption, edit = _marked(item["caption"], item["edit"])
    margins = ", ".join(
        f"<b>{escape(arm)} {value:+.1f}</b>" if value > 0 else f"{escape(arm)} {value:+.1f}"
        for arm, value in item["margins"].items()
    )
    return (
        f'<div class="card"><div class="pair">{image}<div class="text"><p>{caption}</p>'
        f'<p>{edit}</p><small class="faint">{margins}; {escape(item["category"])}</small>'
        "</div></div></div>"
    )


def _marked(caption: str, edit: str) -> tuple[str, str]:
    """Return both texts with the words that differ marked."""
    one, two = re.findall(r"\S+", caption), re.findall(r"\S+", edit)
    was, now = list(map(escape, one)), list(map(escape, two))
    for kind, a, b, c, d in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for i in range(a, b):
            was[i] = f'<span class="was">{was[i]}</span>'
        for i in range(c, d):
            now[i] = f"<mark>{now[i]}</mark>"
    return " ".join(was), " ".join(now)


def _code(text: str) -> str:
    """Escape a text; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
