"""easy-VQA as three CSVs: train, val (every tenth training picture, whole) and test as published.

pip install easy-vqa
python -m benchmarks.easy_vqa.prepare runs/easy-vqa
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

HELD_OUT = 10
"""One training picture in so many is for validation; the test pictures are looked at once."""


def main(out: Path) -> None:
    """Write train.csv, val.csv and test.csv, with links to the package's pictures beside them."""
    import easy_vqa

    data = Path(easy_vqa.__file__).parent / "data"
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        link = out / f"{split}-images"
        if not link.is_symlink():
            os.symlink(data / split / "images", link)
    train = json.loads((data / "train" / "questions.json").read_text())
    test = json.loads((data / "test" / "questions.json").read_text())
    parts = {
        "train": [item for item in train if item[2] % HELD_OUT],
        "val": [item for item in train if item[2] % HELD_OUT == 0],
        "test": test,
    }
    for name, items in parts.items():
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "question", "answer"])
            writer.writerows(
                [f"{image}.png", question, answer] for question, answer, image in items
            )
        print(f"wrote {out / name}.csv: {len(items):,} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
