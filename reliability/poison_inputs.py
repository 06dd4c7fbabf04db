"""Archives, tables, captions and vocabularies that are hostile, broken or simply wrong.

    python reliability/poison_inputs.py      # a minute or two

Each is written to a folder of its own and read to its end in a process of its own, whose processor
time and largest memory are measured. It must be read, with what cannot be used counted, or be
refused in one line; nothing may appear outside its folder, and no file outside it may be read.
"""

from __future__ import annotations

import argparse
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import poison_archives
import poison_tables
import poison_vocabularies
from poisons import MEGABYTES, SECONDS, measured
from results import write_result

from vilta.data.sources import find_reader
from vilta.data.text import caption_lines

SECRET = "the content of a file elsewhere"
"""Stands in a file that no poison may bring to light."""


def read_pairs(path: Path) -> str:
    """Read a source to its end, as packing does; say how much was read."""
    reader = find_reader(str(path))
    captions, images = 0, 0
    for _, found in reader.found():
        if isinstance(found, dict):
            images += 1
            captions += len(found["captions"])
            if SECRET in repr(found):
                raise AssertionError("a file elsewhere was read")
    return f"read {images} images, {captions} captions, skipped {len(reader.skipped)}"


def read_captions(path: Path) -> str:
    """Read captions alone; say how many."""
    return f"read {len(caption_lines(str(path)))} captions"


def told(work: Callable[[], str]) -> str:
    """Return what came of ``work``: a ValueError of one line is a refusal."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    try:
        return work()
    except ValueError as error:
        text = str(error)
        return f"refused: {text}" if "\n" not in text else f"BROKEN, several lines: {text}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        return f"BROKEN, {type(error).__name__}: {error}"


def attempt(group: str, name: str, write: Callable[[Path], Path]) -> dict[str, Any]:
    """Write one poison and try it."""
    readers: dict[str, Callable[[Path], str]] = {
        "archives": read_pairs,
        "tables": read_pairs,
        "captions": read_captions,
        "vocabularies": poison_vocabularies.use,
    }
    with tempfile.TemporaryDirectory(prefix="poison-") as folder:
        top = Path(folder)
        (top / "secret.txt").write_text(SECRET)
        (top / "in").mkdir()
        # In a process of its own: what this one has used, its children begin with.
        path = Path(measured(lambda: str(write(top / "in")))["outcome"])
        before = sorted(p for p in top.rglob("*") if "in" not in p.relative_to(top).parts)
        result = measured(lambda: told(lambda: readers[group](path)))
        after = sorted(p for p in top.rglob("*") if "in" not in p.relative_to(top).parts)
        if before != after:
            result["outcome"] = f"BROKEN, wrote {set(after) - set(before)}"
        result["outcome"] = result["outcome"].replace(folder, "")[:200]
    print(f"{group}, {name}: {result}", file=sys.stderr, flush=True)
    return result


def main() -> None:
    """Try all, and end with an error where something is broken or costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a part of the names of those to try")
    arguments = parser.parse_args()
    began = time.time()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    groups: dict[str, dict[str, Callable[[Path], Path]]] = {
        "archives": poison_archives.POISONS,
        "tables": poison_tables.TABLES,
        "captions": poison_tables.CAPTIONS,
        "vocabularies": poison_vocabularies.POISONS,
    }
    results = {
        f"{group}, {name}": attempt(group, name, write)
        for group, poisons in groups.items()
        for name, write in poisons.items()
        if arguments.only in f"{group}, {name}"
    }
    broken = [
        name
        for name, r in results.items()
        if r["seconds"] > SECONDS
        or r["mb"] > MEGABYTES
        or r["outcome"].startswith(("BROKEN", "died"))
    ]
    figures = {
        "poisons": dict(Counter(name.partition(",")[0] for name in results)),
        "refused": sum(r["outcome"].startswith("refused") for r in results.values()),
        "mb_of_an_idle_process": own,
        "worst": {key: max(r[key] for r in results.values()) for key in ("seconds", "mb")},
        "broken": broken,
        "each": {n: f"{r['outcome']} ({r['seconds']} s, {r['mb']} MB)" for n, r in results.items()},
    }
    if not arguments.only:
        write_result("poison_inputs", began, figures)
    if broken:
        raise SystemExit(f"broken by {'; '.join(broken)}")


if __name__ == "__main__":
    main()
