"""Tables as text: CSV and its relatives, JSON lines, JSON lists. A row is a dict with its place.

A caption that is cut at its comma, or that swallows the lines below it, trains as any other, so
whatever is not plainly a table is an error that names its line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vilta.data.sources.base import listed
from vilta.data.sources.files import json_array
from vilta.decoding import IMAGE_SUFFIXES
from vilta.json_text import parse_json

DELIMITERS = ("\t", ",", ";", "|")
SEPARATED = (".csv", ".tsv", ".txt")
"""Suffixes of files whose first line names the columns."""
LINES = (".jsonl", ".ndjson")
"""Suffixes of files with a JSON object on each line."""
HEAD = 2**16
"""Bytes in which the first line of a table must end."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_IMAGE_NAME = re.compile("(?:" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + r")[\"']?\s*[\t,;|]")
"""What a line that begins a row of its own looks like."""

Fits = Callable[[list[str]], bool]
"""Tells whether the names of columns are those of the table that is wanted."""


def decoded(path: Path, encoding: str = "") -> str:
    """Return the text of a file: UTF-8, or UTF-16 by its mark, unless an encoding is named.

    Raises ``ValueError`` that names the line which is not in that encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    return decoded_bytes(data, str(path), encoding)


def decoded_bytes(data: bytes, where: str, encoding: str = "") -> str:
    """Return text as :func:`decoded` does; ``where`` is what the error calls it."""
    marked = data.startswith(_UTF16)
    name = encoding or ("utf-16" if marked else "utf-8-sig")
    try:
        return data.decode(name).replace("\0", " ")
    except LookupError:
        raise ValueError(f"{where}: there is no encoding {encoding!r}; try latin-1") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        known = encoding or ("UTF-16" if marked else "UTF-8")
        raise ValueError(
            f"{where}, line {line}: not readable as {known}; name its encoding, such as "
            "--encoding latin-1 (where there is no flag: PATH?encoding=latin-1)"
        ) from None


def lines_of(text: str) -> list[str]:
    """Cut a text at its line breaks, and not at what else Unicode takes for one, as U+2028."""
    return re.split(r"\r\n|\n|\r", text)


def _first_line(text: str) -> str:
    """Return the first line that is not empty."""
    return re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]


def columns_of(path: Path, fits: Fits) -> list[str]:
    """Return the columns that the first line of a file names; it need not be a table."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
    first = _first_line(head.decode(encoding, "replace"))
    return _split(first, _delimiter(first, fits))


def separated_rows(
    path: Path, fits: Fits, encoding: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and fields, by column, of each row of a CSV, TSV or similar file.

    The first line names the columns and shows what separates them. Spaces around a field go; a row
    may be short, of which the missing fields are left out.

    Raises ``ValueError`` that names the line of a surplus field or an open quote.
    """
    text = decoded(path, encoding)
    first = _first_line(text)
    delimiter = _delimiter(first, fits)
    try:
        rows = list(_csv(path, text, delimiter))
    except ValueError:
        # Tabs need no quotes, so a file may have them as they are.
        width = first.count(delimiter)
        if delimiter != "\t" or any(line.count("\t") != width for line in _full_lines(text)):
            raise
        rows = [(n, line.split("\t")) for n, line in enumerate(lines_of(text), 1) if line.strip()]
    if not rows:
        return
    _, columns = rows[0]
    columns = [column.strip() for column in columns]
    if twice := [c for c, times in Counter(columns).items() if c and times > 1]:
        raise ValueError(f"{path}: two columns are called {twice[0]!r}")
    for line, fields in rows[1:]:
        values = [field.strip() for field in fields]
        if surplus := list(filter(None, values[len(columns) :])):
            raise ValueError(
                f"{path}, line {line}: {len(values)} fields where the first line names "
                f"{len(columns)} ({surplus[0][:40]!r} is left over); put a text that holds "
                f"{delimiter!r} in double quotes"
            )
        yield line, dict(zip(columns, values, strict=False))


def json_rows(path: Path, encoding: str = "") -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield number and content of each line, or item, of JSON lines or a JSON list.

    None replaces one that is not a JSON object. A list is never entirely in memory.
    """
    if path.suffix.lower() not in LINES:
        for number, item in enumerate(json_array(path), start=1):
            yield number, item if isinstance(item, dict) else None
        return
    for number, line in enumerate(lines_of(decoded(path, encoding)), start=1):
        if not line.strip():
            continue
        try:
            item = parse_json(line)
        except ValueError:
            item = None
        yield number, item if isinstance(item, dict) else None


def is_json_list(path: Path) -> bool:
    """Tell by its first character whether a JSON file is a list."""
    with path.open("rb") as file:
        return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def holds_rows(content: Any) -> bool:
    """Tell whether a JSON object holds a list of objects, or maps names to texts."""
    if not isinstance(content, dict) or not content:
        return False
    if any(isinstance(v, list) and v and isinstance(v[0], dict) for v in content.values()):
        return True
    return all(
        name.lower().endswith(IMAGE_SUFFIXES) and isinstance(texts, str | list)
        for name, texts in content.items()
    )


def _delimiter(first: str, fits: Fits) -> str:
    """Return what separates the columns: what makes of the first line those that are wanted."""
    fitting = [d for d in DELIMITERS if fits(_split(first, d))]
    return max(fitting or DELIMITERS, key=lambda d: len(_split(first, d)))


def _split(line: str, delimiter: str) -> list[str]:
    try:
        [fields] = csv.reader([line], delimiter=delimiter, skipinitialspace=True)
    except (csv.Error, ValueError):
        fields = line.split(delimiter)
    return [field.strip() for field in fields]


def _full_lines(text: str) -> Iterator[str]:
    return (line for line in lines_of(text) if line.strip())


def _csv(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with the lines that they begin in; ``ValueError`` for anything but CSV."""
    table = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL,
        skipinitialspace=True,
        strict=True,
    )
    while True:
        line = table.line_num + 1
        try:
            fields = next(table, None)
        except csv.Error as error:
            lines = (
                f"line {line}" if table.line_num <= line else f"lines {line} to {table.line_num}"
            )
            raise ValueError(
                f"{path}, {lines}: not readable CSV ({error}); is a quote left open?"
            ) from None
        if fields is None:
            return
        for field in fields:
            _check_swallowed(path, line, field)
        if any(fields):
            yield line, fields


def _check_swallowed(path: Path, line: int, field: str) -> None:
    """Refuse a field that runs on over what looks like other rows: its quote was left open."""
    below: Sequence[str] = lines_of(field)[1:]
    for number, text in enumerate(below, start=line + 1):
        if _IMAGE_NAME.search(text):
            raise ValueError(
                f"{path}, line {line}: a quoted text runs on over line {number} ({listed([text])}),"
                " which looks like a row; close its quote"
            )
