"""Tables of one's own: CSV files whose first line names the columns."""

from __future__ import annotations

import csv
from pathlib import Path


def csv_lines(path: str | Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the lines of a table by column; ``ValueError`` names what is missing, and where."""
    lines: list[dict[str, str]] = []
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        try:
            missing = [c for c in columns if c not in (table.fieldnames or ())]
            if missing:
                needed = ",".join(columns)
                raise ValueError(f"{path} has no column {missing[0]!r}; it needs {needed}")
            for line in table:
                short = [c for c in columns if line[c] is None]
                if short:
                    raise ValueError(f"{path}, line {table.line_num}: it has no {short[0]}")
                lines.append(line)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not readable CSV: {error}") from None
    return lines
