"""What a packing has done so far, on disk: an interrupted one goes on from its journal."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vilta.data.sources.base import NOTHING, Read

JOURNAL = "journal.jsonl"
"""Its first line describes what is packed; each further line is a finished shard."""
VERSION = 2
"""Of what the lines hold; a packing with a journal of another is begun anew."""


@dataclass
class Work:
    """What has been done so far: the lines of the journal, added up."""

    read: Read = NOTHING
    """What was read of the source for the finished shards."""
    shards: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    """Row of each image by the hash of its bytes."""
    rows: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    merged: list[dict[str, Any]] = field(default_factory=list)
    """Duplicates: source, id, captions, and the row that represents them."""

    def add(self, line: dict[str, Any]) -> None:
        """Take up a line of the journal."""
        self.read = Read(**line["read"])
        self.shards += line["shards"]
        for digest in line["images"]:
            self.images.setdefault(digest, self.rows)
            self.rows += 1
        self.skipped += line["skipped"]
        self.merged += line["merged"]


def begin(folder: Path, what: dict[str, Any]) -> Work:
    """Return what an interrupted packing of the same source has done, or start over."""
    work, journal = Work(), folder / JOURNAL
    what = {"journal": VERSION, **what}
    if journal.is_file():
        first, *lines = journal.read_text(encoding="utf-8").split("\n")
        if first == json.dumps(what):
            for line in lines[:-1]:  # what follows the last line break was being written
                work.add(json.loads(line))
            return work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    append_line(journal, what)
    return work


def append_line(journal: Path, line: dict[str, Any]) -> None:
    """Add a line and wait until it is on the disk."""
    with open(journal, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file and wait until it is on the disk."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
