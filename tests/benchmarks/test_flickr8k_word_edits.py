import csv
import re

from benchmarks.flickr8k.word_edits import LISTS, edits_of, exchanges, write_edits

from vilta.objectives.vocabulary import STOP_WORDS
from vilta.tasks.formats.compositional_sets import read_set

PHOTOS = {
    "a.jpg": [
        "Two dogs are running over the snow .",
        "A brown dog and a black dog play .",
        "Dogs outside in winter .",
    ],
    "b.jpg": ["A man with an orange hat rides a bike .", "A cyclist ."],
    "c.jpg": ["Nothing that a list knows .", "Hello ."],
    "d.jpg": ["A man ."],
    "e.jpg": ["A man smiles .", "The woman ."],
}


def test_one_word_differs_is_of_the_kind_and_nobody_said_it():
    for name, captions in PHOTOS.items():
        said = set(re.findall("[a-z]+", " ".join(captions).lower()))
        for item in edits_of(name, captions):
            pairs = list(zip(item.caption.split(), item.edit.split(), strict=True))
            changed = [(a.lower(), b.lower()) for a, b in pairs if a != b]
            assert len(changed) == 1
            old, new = changed[0]
            assert new in exchanges(item.kind)[old] and new not in said
            assert item.caption in captions and item.paraphrase in captions
            assert item.caption != item.paraphrase
    assert {e.kind for e in edits_of("a.jpg", PHOTOS["a.jpg"])} == set(LISTS)
    for name in ("c.jpg", "d.jpg", "e.jpg"):
        assert edits_of(name, PHOTOS[name]) == []


def test_articles_and_capitals_are_kept():
    for seed in range(30):
        for item in edits_of(f"{seed}", ["An orange cat .", "Two cats ."]):
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])", item.edit.lower()), item.edit
            assert item.edit[0].isupper()


def test_lists_hold_each_word_once_a_line_and_lines_of_two_or_more():
    for kind, text in LISTS.items():
        for line in text.strip().splitlines():
            words = line.split()
            assert len(words) == len(set(words)) >= 2, kind
            if kind != "preposition" and kind != "number":
                assert not set(words) & STOP_WORDS


def test_the_file_is_read_by_fine_grained_and_is_always_the_same(tmp_path):
    rows = [{"image_id": name, "captions": captions} for name, captions in PHOTOS.items()]
    counts = write_edits(rows, tmp_path / "edits.csv")
    write_edits(rows, tmp_path / "again.csv")
    assert (tmp_path / "edits.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    with (tmp_path / "edits.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    items = read_set(str(tmp_path / "edits.csv"))
    assert len(items) == len(lines) == sum(counts.values()) > 4
    for item, line in zip(items, lines, strict=True):
        assert item["images"] == [line["image"]] and item["category"] == line["category"]
        assert item["texts"] == [line["caption"], line["edit"], line["paraphrase"]]
        assert item["truth"] == [1, 0, 1]
