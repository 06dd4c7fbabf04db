"""One-word edits of human captions: does a model see that one noun, colour, ... is wrong?

    python -m benchmarks.flickr8k.word_edits runs/flickr8k/val runs/flickr8k/word-edits.csv
    vilta evaluate runs/flickr8k/run-0 --task fine-grained --data runs/flickr8k/word-edits.csv \
        --images runs/flickr8k/val

For each photo and each kind of word, one of its captions whose word of that kind can be exchanged
for another of the same list. The lists were written by hand and serve nothing else: no model
wrote these edits, and none is trained on them. A word that any caption of the photo uses is no
edit, since it may be true. Another caption of the same photo is the paraphrase, so a model that
rejects all that it does not know is found out. The choice is a function of the photo's id.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vilta.data.sources import load_pairs
from vilta.seeds import derived

# Words of one line exclude one another in a photo, or nearly so: where one is seen, a person would
# not write another of the same thing.
LISTS = {
    "noun": """
        dog cat horse bird sheep
        dogs cats horses birds sheep
        man woman
        men women
        boy girl
        boys girls
        bike motorcycle car boat skateboard
        beach street forest kitchen
        ball frisbee guitar rope
        snow grass sand
        pool river road
        soccer tennis basketball baseball
        hat helmet
        couch table bench tree
    """,
    "colour": """
        red blue green yellow purple pink orange brown black white
    """,
    "number": """
        two three four five six
    """,
    "verb": """
        running sleeping sitting
        jumping lying kneeling
        walking climbing swimming
        standing lying swimming
        eating throwing digging
        riding pushing washing
        runs sleeps sits
        jumps lies kneels
        walks climbs swims
        rides pushes washes
        holds kicks drops
        smiling crying yawning
    """,
    "preposition": """
        over under
        above below
        up down
        inside outside
        behind before
        with without
        on under
    """,
}
"""Kinds of words, and for each the lines of words that can take each other's place."""


class Edit(NamedTuple):
    """A caption, the same with one word exchanged, and another caption of the same photo."""

    caption: str
    edit: str
    paraphrase: str
    kind: str


def exchanges(kind: str) -> dict[str, list[str]]:
    """Return for each word of a kind what may stand in its place."""
    found: dict[str, list[str]] = {}
    for line in LISTS[kind].strip().splitlines():
        words = line.split()
        for word in words:
            found.setdefault(word, []).extend(other for other in words if other != word)
    return found


def edits_of(image_id: str, captions: Sequence[str]) -> list[Edit]:
    """Return at most one edit of each kind for a photo with several captions."""
    if len(captions) < 2:
        return []
    said = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    found = []
    for kind in LISTS:
        others = exchanges(kind)
        possible = [
            (i, at, word)
            for i, caption in enumerate(captions)
            for at, old in enumerate(caption.split())
            for word in others.get(old.lower(), ())
            if word not in said and _fits(caption.split(), at, word)
        ]
        if possible:
            i, at, word = possible[derived(image_id, kind) % len(possible)]
            words = captions[i].split()
            words[at] = word.capitalize() if words[at][0].isupper() else word
            rest = [caption for j, caption in enumerate(captions) if j != i]
            paraphrase = rest[derived(image_id, kind, "paraphrase") % len(rest)]
            found.append(Edit(captions[i], " ".join(words), paraphrase, kind))
    return found


def _fits(words: Sequence[str], at: int, word: str) -> bool:
    """Whether the article before a place goes with ``word`` as it did with the word there."""
    article = at > 0 and words[at - 1].lower() in ("a", "an")
    return not article or (word[0] in "aeiou") == (words[at][0].lower() in "aeiou")


def write_edits(rows: Iterable[dict[str, Any]], path: Path) -> dict[str, int]:
    """Write the edits of a table of pairs as a CSV for `fine-grained`; return how many by kind."""
    counts = dict.fromkeys(LISTS, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "edit", "paraphrase", "category"])
        for row in rows:
            for item in edits_of(row["image_id"], row["captions"]):
                writer.writerow([row["image_id"], *item])
                counts[item.kind] += 1
    return counts


def main() -> None:
    """Read a packed folder and write the CSV."""
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m benchmarks.flickr8k.word_edits PAIRS OUT.csv")
    source, path = sys.argv[1], Path(sys.argv[2])
    counts = write_edits(load_pairs(source).select_columns(["image_id", "captions"]), path)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"wrote {path}: {sum(counts.values()):,} edits ({shown})")


if __name__ == "__main__":
    main()
