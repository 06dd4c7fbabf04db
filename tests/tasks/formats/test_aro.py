import os
import subprocess
import sys

import pytest

from vilta.data import parts_of_speech as tagger
from vilta.tasks.formats.aro import SYMMETRIC_RELATIONS, order_texts

CAPTION = "A small dog chases two brown cats, near big houses."
WORDS = "a small dog chases two brown cats , near big houses".split()  # noqa: SIM905
NOUNS, ADJECTIVES = {2, 6, 10}, {1, 5, 9}


def words_of(text):
    return text.replace(",", " ,").split()


def test_the_four_shuffles_move_what_they_should_and_nothing_else():
    true, *wrong = order_texts(CAPTION)
    assert true == "a small dog chases two brown cats, near big houses"
    by_part, others, within, of_trigrams = map(words_of, wrong)
    rest = set(range(11)) - NOUNS - ADJECTIVES
    for text, moving, fixed in (
        (by_part, (NOUNS, ADJECTIVES), rest),
        (others, (rest,), NOUNS | ADJECTIVES),
    ):
        assert all(text[i] == WORDS[i] for i in fixed)
        for group in moving:
            assert {text[i] for i in group} == {WORDS[i] for i in group}
    chunks = [WORDS[i : i + 3] for i in (0, 3, 6, 9)]
    for i, chunk in enumerate(chunks):
        assert sorted(within[3 * i : 3 * i + 3]) == sorted(chunk)
        assert " ".join(chunk) in " ".join(of_trigrams)
    assert sorted(of_trigrams) == sorted(WORDS)
    assert all(words != WORDS for words in (by_part, others, within, of_trigrams))


def test_every_order_of_a_trigram_is_drawn():
    drawn = {tuple(w[0] for w in order_texts(f"n{i} g{i} q{i}")[-1].split()) for i in range(200)}
    assert len(drawn) == 6  # the caption's own too, where every shuffle gave it


def test_the_shuffles_are_the_same_in_every_process():
    code = f"from vilta.tasks.formats.aro import order_texts; print(order_texts({CAPTION!r}))"
    hashes = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(order_texts(CAPTION))


def test_captions_are_cleaned_as_aro_does():
    assert order_texts('  A "red"  Ball;\n(old) dog-house #1 ~ isn\'t here!')[0] == (
        "a red ball old dog-house 1 isn't here"
    )
    long = order_texts(" ".join(f"w{i}" for i in range(40)))
    assert long[0].split() == [f"w{i}" for i in range(30)]
    assert all(sorted(text.split()) == sorted(long[0].split()) for text in long)


@pytest.mark.parametrize("caption", ["Dog.", "dog dog", ""])
def test_a_shuffle_that_gives_the_caption_again_is_not_wrong(caption):
    assert order_texts(caption) == [caption.lower().strip(".")]


def test_without_the_tagger_the_error_says_what_to_install(monkeypatch):
    tagger._tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    with pytest.raises(ValueError, match=r"pip install 'vilta\[pos\]'"):
        order_texts(CAPTION)
    tagger._tagger.cache_clear()


def test_relations_that_the_authors_leave_out():
    assert len(SYMMETRIC_RELATIONS) == 157  # as many as their notebook lists
    assert {"adjusting", "next to", "on the other side of", "around"} <= SYMMETRIC_RELATIONS
    assert not {"on", "to the left of", "to the right of", "behind"} & SYMMETRIC_RELATIONS
