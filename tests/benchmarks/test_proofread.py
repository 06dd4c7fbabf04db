"""What the benchmark of proofreading counts, on words written by hand."""

import json

import pytest
from small_run import write_run

from benchmarks import proofread as benchmark
from vilta.apps.proofreading import Proofreading, WordCheck


def checked(caption, suspicions, flagged=()):
    words, at = [], 0
    for word in caption.split():
        at = caption.index(word, at)
        words.append(
            WordCheck(
                word=word,
                start=at,
                end=at + len(word),
                with_image=0.0,
                without_image=0.0,
                instead="other",
                better=1.0,
                suspicion=suspicions.get(word, 0.0),
                flagged=word in flagged,
            )
        )
        at += len(word)
    return Proofreading(caption=caption, words=tuple(words))


@pytest.mark.parametrize(
    ("caption", "edit", "word"),
    [
        ("a red ball", "a blue ball", "blue"),
        ("a red ball", "a round ball", "round"),  # they begin alike
        ("two ball", "two balls", "balls"),
        ("a ball", "a bal", "bal"),
        ("four cats", "five cats", "five"),
    ],
)
def test_the_wrong_word_is_the_one_that_differs(caption, edit, word):
    found = checked(edit, {})
    assert found.words[benchmark.wrong_word(caption, edit, found)].word == word


def test_measures_count_by_kind_and_by_picture():
    edits = {"colour": "a blue ball", "shape": "a red cross"}
    item = benchmark.Item("7", None, "a red ball", edits)
    found = benchmark.Checks(
        item,
        checked("a red ball", {}),
        {
            "colour": checked("a blue ball", {"blue": 3.0}, flagged=["blue"]),
            "shape": checked("a red cross", {"red": 3.0, "cross": 2.0}, flagged=["red"]),
        },
    )
    other = benchmark.Checks(
        benchmark.Item("8", None, "a cat", {}), checked("a cat", {}, ["cat"]), {}
    )
    measured = benchmark.measures([found, other])
    assert measured["all edits: wrong word flagged"] == (["7", "7"], [100.0, 0.0])
    assert measured["colour: wrong word the most suspicious"] == (["7"], [100.0])
    assert measured["shape: wrong word the most suspicious"] == (["7"], [0.0])
    assert measured["true captions: no word flagged"] == (["7", "8"], [100.0, 0.0])


def test_a_run_is_measured_on_scenes(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run")
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["proofread", "scenes", str(run), "--choose=3", "--measure=4"])
    benchmark.main()
    result = json.loads((tmp_path / "scenes-proofread.json").read_text())
    kinds = [result["counts"][f"{kind}: wrong word flagged"] for kind in ("colour", "shape")]
    assert result["items"] >= sum(kinds) > 0
    assert 0 <= result["intervals"]["true captions: no word flagged"]["mean"] <= 100
    assert "wrong word flagged" in capsys.readouterr().out


def test_a_missed_aim_is_told():
    names = ["colour", "shape", "count"]
    found = {f"{kind}: wrong word flagged": {"mean": 90.0} for kind in names}
    found["true captions: no word flagged"] = {"mean": 95.0}
    assert benchmark.aims_told(found).endswith("missed: none")
    found["count: wrong word flagged"] = {"mean": 86.54}
    assert benchmark.aims_told(found).endswith("missed: count: wrong word flagged (86.5)")
