"""Tables of one's own: CSV or TSV files whose first line names the columns."""

from __future__ import annotations

from pathlib import Path

from vilta.data.sources import SourceOptions, named_options
from vilta.data.sources.base import listed
from vilta.data.sources.tables import columns_of, separated_rows


def is_csv(path: str | Path) -> bool:
    """Tell whether a path, which may end in ``?encoding=NAME``, is that of such a table."""
    return named_options(str(path), SourceOptions())[0].endswith((".csv", ".tsv"))


def csv_lines(path: str | Path, columns: tuple[str, ...], answer: str = "") -> list[dict[str, str]]:
    """Return the lines of a table by column; ``ValueError`` names what is missing, and where.

    The column ``answer`` may be missing, as in a test set whose answers nobody knows: it is empty
    then. A path may name the encoding of its file: ``answers.csv?encoding=latin-1``.
    """
    name, options = named_options(str(path), SourceOptions())
    place = Path(name)
    expected = (*columns, answer) if answer else columns

    def fits(names: list[str]) -> bool:
        return set(columns) <= set(names)

    try:
        found = columns_of(place, fits)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from None
    if not any(found):
        raise ValueError(f"{name} is empty; its first line must be {','.join(expected)}")
    if missing := [c for c in columns if c not in found]:
        raise ValueError(
            f"{name} has no column {missing[0]!r}; it needs {','.join(expected)} and has "
            f"{listed(found)}"
        )
    lines: list[dict[str, str]] = []
    for number, line in separated_rows(place, fits, options.encoding):
        if short := [c for c in expected if c in found and c not in line]:
            raise ValueError(f"{name}, line {number}: it has no {short[0]}")
        lines.append({answer: "", **line} if answer else line)
    return lines
