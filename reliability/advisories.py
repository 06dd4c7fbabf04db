"""Check the locked dependencies against a list of public advisories, which is a file.

    python reliability/advisories.py reliability/pysec-2026-09-23.json

For machines that reach no advisory service; where one can be reached, `make audit` knows more. The
list says where it is from, the date of its newest advisory, which packages were looked up, and for
each advisory that was read the first version without it (null: it states none). A locked version
below that is affected, and ends the program with an error; one whose advisory states no fixed
version is told, with what is known of it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version
from results import write_result

LOCK = Path(__file__).parents[1] / "requirements.lock"
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def locked_versions() -> dict[str, list[str]]:
    """Return the versions of every locked package, and of torch, which is installed beside it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, number in LOCKED.findall(LOCK.read_text(encoding="utf-8")):
        found[name.lower()].append(number)
    return dict(found) | {"torch": [version("torch").partition("+")[0]]}


def main() -> None:
    """Check every package of the lock."""
    began = time.time()
    known: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    packages, affected, unfixed = {}, [], []
    for name, numbers in sorted(locked_versions().items()):
        read = known["read"].get(name, {})
        for advisory, fixed in read.items():
            if fixed is None:
                unfixed.append(advisory)
            elif min(map(Version, numbers)) < Version(fixed):
                affected.append(f"{name} {min(numbers, key=Version)}: {advisory}")
        packages[name] = {
            "locked": numbers,
            "looked_up": name in known["looked_up"],
            "read": list(read),
            "listed_only": known["listed_only"].get(name, []),
        }
    without = [name for name, about in packages.items() if not about["looked_up"]]
    figures = {
        "source": known["source"],
        "newest_advisory": known["newest"],
        "covers": known["covers"],
        "packages": len(packages),
        "without_any_advisory": sum(
            not about["read"] and not about["listed_only"] for about in packages.values()
        ),
        "advisories_read": sum(len(about["read"]) for about in packages.values()),
        "advisories_listed_only": sum(len(about["listed_only"]) for about in packages.values()),
        "affected": affected,
        "no_fixed_version_stated": {each: known["notes"][each] for each in unfixed},
        "not_looked_up": without,
        "of_each": {n: about for n, about in packages.items() if about["read"]},
    }
    write_result("advisories", began, figures)
    if affected or without:
        raise SystemExit(f"{len(affected)} affected, {len(without)} not looked up")


if __name__ == "__main__":
    main()
