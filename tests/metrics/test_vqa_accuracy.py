import hashlib
import json
from fractions import Fraction
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilta.metrics.vqa_accuracy import (
    _CONTRACTIONS,
    mean_vqa_accuracy,
    normalise_answer,
    soft_scores,
    vqa_accuracy,
)

MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-"]
MARKS += [">", "<", "@", "`", ",", "?", "!"]
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"}
NUMBERS |= {"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
FORGOTTEN = {"dont": "don't", "whats": "what's", "oclock": "o'clock", "couldn'tve": "couldn't've"}


def slow_mark(text, letter):
    """What becomes of a letter of the text, as far as it is a mark."""
    if letter not in MARKS:
        return letter
    threes = zip(text, text[1:], text[2:], strict=False)
    joins = any(a.isdecimal() and b == "," and c.isdecimal() for a, b, c in threes)
    return "" if joins or any({a, b} == {letter, " "} for a, b in pairwise(text)) else " "


def slow_normalise(answer):
    """One step after the other and letter by letter, for the contractions listed above."""
    text = "".join(" " if letter in "\n\t" else letter for letter in answer).strip()
    text = "".join(slow_mark(text, letter) for letter in text)
    kept, gone = "", 0
    for place, letter in enumerate(text):
        if letter == "." and gone < 32 and not text[place + 1 : place + 2].isdecimal():
            gone += 1
        else:
            kept += letter
    words = [NUMBERS.get(word, word) for word in kept.lower().split()]
    return " ".join(FORGOTTEN.get(word, word) for word in words if word not in ("a", "an", "the"))


def test_the_contractions_are_the_evaluator_s():
    """All 120 entries, compared with vqaEval.py one by one when the digest was taken."""
    table = json.dumps(sorted(_CONTRACTIONS.items())).encode()
    digest = hashlib.sha256(table).hexdigest()
    assert digest == "3e5960526f62912d3b70896069c43c13d7c21be38d50ca28efbb9095b499454f"


def slow_accuracy(prediction, answers):
    """Every way to leave one annotator out, counted in fractions."""
    if any(answer != answers[0] for answer in answers):
        answers = [slow_normalise(answer) for answer in answers]
        prediction = slow_normalise(prediction)
    subsets = list(combinations(answers, len(answers) - 1))
    credits = [min(Fraction(1), Fraction(subset.count(prediction), 3)) for subset in subsets]
    return float(sum(credits) / len(subsets))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("a dog.", "dog"),
        ("The man on a horse", "man on horse"),
        ("the", ""),
        ("Dont", "don't"),
        ("wont", "won't"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("couldntve", "couldntve"),  # lacks two apostrophes
        ("girl's", "girl's"),
        ("hes", "he's"),
        ("let's", "let's"),
        ("shes", "shes"),  # not in the table
        ("Im", "im"),  # in the table, but lower case by then
        ("somebody'd", "somebodyd"),  # the table is the wrong way round
        ("2:50 pm", "2:50 pm"),
        ("100,978", "100978"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),  # a comma between digits removes every mark
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("yes/no", "yes no"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),  # one mark next to a space decides for all of its kind
        ("t-shirt -red", "tshirt red"),
        ("yes!", "yes"),
        (" what\nis\tit ", "what is it"),
        ("", ""),
        ("." * 40, "." * 8),  # no more than 32 periods go
    ],
)
def test_spelling(answer, expected):
    assert normalise_answer(answer) == expected


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_becomes_a_space_or_goes(mark):
    assert normalise_answer(f"left{mark}right") == "left right"
    assert normalise_answer(f"left{mark} right{mark}x") == "left rightx"


@pytest.mark.parametrize("mark", ["'", ":", "%", "&", "$", "#"])
def test_other_marks_stay(mark):
    assert normalise_answer(f"left{mark}right") == f"left{mark}right"


PIECES = [*MARKS, ".", "'", " ", " ", "\n", "7", "12", "1,000", "Two", "the ", "dog", *FORGOTTEN]
spellings = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@given(spellings)
def test_spelling_equals_a_slow_reading(answer):
    assert normalise_answer(answer) == slow_normalise(answer)


@given(
    prediction=st.sampled_from(["yes", "Yes.", "no", "two", "2", "the 2", "dont", "red, blue", ""]),
    answers=st.lists(
        st.sampled_from(["yes", "Yes!", "no", "2", "two", "don't", "red blue"]),
        min_size=2,
        max_size=10,
    ),
)
def test_accuracy_equals_leaving_each_annotator_out(prediction, answers):
    assert vqa_accuracy(prediction, answers) == pytest.approx(slow_accuracy(prediction, answers))


@pytest.mark.parametrize(
    ("equal", "expected"), list(enumerate([0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1]))
)
def test_ten_annotators(equal, expected):
    answers = ["yes"] * equal + ["no"] * (10 - equal)
    assert vqa_accuracy("yes", answers) == pytest.approx(expected)


def test_answers_on_which_all_agree_are_compared_as_they_are():
    assert vqa_accuracy("Yes.", ["yes"] * 10) == 0
    assert vqa_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1
    assert vqa_accuracy("the end", ["the end"] * 10) == 1
    assert vqa_accuracy("end", ["the end"] * 10) == 0
    # White space around them is no difference between answers.
    assert vqa_accuracy("\tyes\n", ["yes", " yes "] * 5) == 1
    assert vqa_accuracy("Yes.", ["yes", " yes "] * 5) == 0


def test_without_answers_there_is_no_accuracy():
    with pytest.raises(ValueError, match="annotator"):
        vqa_accuracy("yes", [])


def test_soft_scores_add_up_spellings():
    answers = ["two", "2", "Two.", "3", "3", "dont know", "1", "1", "1", "1"]
    assert soft_scores(answers) == {"2": 0.9, "3": 0.6, "don't know": 0.3, "1": 1.0}
    assert soft_scores([]) == {}


@given(st.lists(st.sampled_from(["red", "Blue", "a dog", "two"]), min_size=10, max_size=10))
def test_a_soft_score_is_the_accuracy_of_its_answer(answers):
    answers[0] = "something else"
    for answer, score in soft_scores(answers).items():
        assert score == pytest.approx(vqa_accuracy(answer, answers))


def test_mean_overall_and_by_answer_type():
    metrics = mean_vqa_accuracy(
        ["yes", "no", "2", "dog"],
        [["yes"] * 10, ["yes"] * 10, ["two"] * 2 + ["3"] * 8, ["dog"] + ["cat"] * 9],
        ["yes/no", "yes/no", "number", "other"],
    )
    assert metrics == pytest.approx({"overall": 47.5, "yes/no": 50, "number": 60, "other": 30})


def test_mean_is_not_rounded():
    metrics = mean_vqa_accuracy(["a b"] * 3, [["a b"] * 10, ["c"] * 10, ["c"] * 10], ["other"] * 3)
    assert metrics["overall"] == pytest.approx(100 / 3, abs=1e-9)


@pytest.mark.parametrize("questions", [([], [], []), (["yes"], [["yes"]], [])])
def test_mean_needs_questions_with_all_that_belongs_to_them(questions):
    with pytest.raises(ValueError):
        mean_vqa_accuracy(*questions)
