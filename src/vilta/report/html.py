"""Elements of self-contained HTML pages. All inserted text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SMALL_SIDE = 128
"""Images up to this side are inlined without loss, larger ones as JPEG; our choice."""

PROSE = 40
"""A column with a cell longer than this, in characters, is prose: it wraps; our choice."""


class Tile(NamedTuple):
    """A key number: its value, its name, and what to compare it with."""

    value: str
    label: str
    note: str


class Table(NamedTuple):
    """A table of text: its head and rows."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def require_html(out: str) -> None:
    """Refuse a page's place that is not named as one, such as a photo's."""
    if not out.lower().endswith((".html", ".htm")):
        raise ValueError(f"--out must name an HTML file, such as page.html; got {out}")


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of elements."""
    style = files("vilta.report").joinpath("style.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style></head><body><main>",
            *parts,
            "</main></body></html>\n",
        ]
    )


def tile_element(tile: Tile) -> str:
    """Return a key figure."""
    return (
        f'<div class="tile"><b>{escape(tile.value)}</b><span>{escape(tile.label)}</span>'
        f"<small>{escape(tile.note)}</small></div>"
    )


def table_element(title: str, table: Table) -> str:
    """Return a table as a card. A row without a first cell belongs to the one above it."""
    prose = [max(map(len, column)) > PROSE for column in zip(table.head, *table.rows, strict=True)]
    classes = [' class="prose"' if long else "" for long in prose]

    def cells(kind: str, row: Sequence[str]) -> str:
        pairs = zip(row, classes, strict=True)
        return "".join(f"<{kind}{own}>{escape(cell)}</{kind}>" for cell, own in pairs)

    head = cells("th", table.head)
    following = [*table.rows, ("-",)][1:]
    kinds = [
        "change" if not row[0] else "level" if not after[0] else ""
        for row, after in zip(table.rows, following, strict=True)
    ]
    rows = "".join(
        f"<tr{f' class={kind}' if kind else ''}>{cells('td', row)}</tr>"
        for kind, row in zip(kinds, table.rows, strict=True)
    )
    heading = f'<h3 style="margin-top:0">{escape(title)}</h3>' if title else ""
    return f'<div class="card scroll">{heading}<table><tr>{head}</tr>{rows}</table></div>'


def picture_element(light: bytes, dark: bytes, text: str) -> str:
    """Return a plot from two PNG files, for a light and for a dark screen."""
    on_light, on_dark = (
        f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (light, dark)
    )
    return (
        f'<div class="card curves"><picture><source srcset="{on_dark}" '
        f'media="(prefers-color-scheme: dark)"><img src="{on_light}" alt="{escape(text)}">'
        "</picture></div>"
    )


def data_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Return an image as a data URI."""
    kind = "png" if max(pixels.shape) <= SMALL_SIDE else "jpeg"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
