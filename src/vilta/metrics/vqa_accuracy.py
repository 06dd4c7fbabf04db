"""Accuracy of visual question answering against several annotators, as VQAv2's evaluator counts.

Source: GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py at commit a013f00. What
looks odd here is how published figures are made, and so it is kept and named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# Meant to spare decimal points; it only looks at what follows, so ".5" keeps its point, "5." not.
_PERIOD = re.compile(r"\.(?!\d)")
# The evaluator hands the flag `re.UNICODE` over as the number of replacements.
_MOST_PERIODS = 32

_ARTICLES = frozenset({"a", "an", "the"})
_UP_TO_TEN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_UP_TO_TEN)}

# Words are lower case when they are looked up, so those with a capital are never found.
_CONTRACTED = """
    ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't
    needn't oughtn't shan't shouldn't wasn't weren't won't wouldn't
    couldn't've hadn't've mightn't've shouldn't've wouldn't've
    could've I've might've must've not've should've they've we've what've where've who've would've
    you've
    he'd how'd it'd someone'd something'd there'd they'd where'd who'd you'd
    he'd've I'd've it'd've she'd've somebody'd've someone'd've something'd've there'd've they'd've
    we'd've who'd've you'd've
    how'll it'll somebody'll someone'll something'll they'll what'll who'll why'll you'll
    he's how's somebody's someone's that's there's what's when's where's who's why's
    there're they're what're why're you're
    I'm ma'am o'clock 'ow's'at 'twas y'all y'all'll y'all'd've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word  # each spelling that lacks one of its apostrophes
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {
    # The evaluator's slips: two that stay as they are, one that loses its apostrophe.
    "let's": "let's",
    "she's": "she's",
    "somebody'd": "somebodyd",
}

_SOFT_SCORES = (0.3, 0.6, 0.9, 1.0)


def normalise_answer(answer: str) -> str:
    """Spell an answer as the evaluator compares it: ``"Two dogs."`` becomes ``"2 dogs"``.

    In this order: line breaks and tabs become spaces; most punctuation (not apostrophe and colon)
    becomes a space, or nothing if the answer has that mark next to a space, or has a comma between
    digits; periods go unless a digit follows; lower case; number words up to ten become digits
    ("none" is 0); articles go; contractions get a forgotten apostrophe back. Nothing may be left:
    "the" becomes "".
    """
    return _unify_words(_strip_punctuation(_clean(answer)))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement of a prediction with the annotators' answers, in [0, 1].

    Each annotator is left out in turn; a third is earned for each of the others who gave the
    predicted answer, one at most; the mean over the annotators is returned. Of ten annotators one
    equal answer is thus worth 0.3, two 0.6, three 0.9, four or more 1.

    Prediction and answers are normalised only if the answers differ. Where all agree, only white
    space around them and line breaks are levelled: "Yes." does not match ten times "yes". The
    evaluator's authors meant to leave text read in the picture as it is.

    Raises ValueError if there are no answers.
    """
    if not answers:
        raise ValueError("a prediction needs at least one annotator's answer to be compared with")
    predicted, given = _clean(prediction), [_clean(answer) for answer in answers]
    if len(set(given)) > 1:
        predicted, given = normalise_answer(predicted), [normalise_answer(one) for one in given]
    equal = given.count(predicted)
    different = len(given) - equal
    return (equal * _credit(equal - 1) + different * _credit(equal)) / len(given)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """Training targets in (0, 1] of a question: each normalised answer with its score.

    An answer that one annotator gave scores 0.3, two 0.6, three 0.9, four or more 1, which is its
    `vqa_accuracy` with ten annotators who differ. METER's preparation counts the strings as they
    are published, mostly normalised already; here different spellings of an answer add up.
    """
    counts = Counter(normalise_answer(answer) for answer in answers)
    return {
        answer: _SOFT_SCORES[min(count, len(_SOFT_SCORES)) - 1] for answer, count in counts.items()
    }


def mean_vqa_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], answer_types: Sequence[str]
) -> dict[str, float]:
    """Mean accuracy over questions in percent: ``overall``, and each answer type by its name.

    The three sequences run over the same questions; VQAv2's types are "yes/no", "number" and
    "other". Figures are not rounded (the evaluator prints two decimals).

    Raises ValueError if there are no questions, or if the sequences differ in length.
    """
    if not predictions:
        raise ValueError("no questions to average over")
    of_type: defaultdict[str, list[float]] = defaultdict(list)
    for prediction, given, kind in zip(predictions, answers, answer_types, strict=True):
        accuracy = vqa_accuracy(prediction, given)
        of_type["overall"].append(accuracy)
        of_type[kind].append(accuracy)
    return {kind: 100 * sum(values) / len(values) for kind, values in of_type.items()}


def _clean(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _strip_punctuation(text: str) -> str:
    """Whether a mark goes or becomes a space is decided by the text as it came, once for all."""
    all_go = _DIGIT_COMMA_DIGIT.search(text) is not None
    replaced = {
        ord(mark): "" if all_go or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
    }
    return _PERIOD.sub("", text.translate(replaced), count=_MOST_PERIODS)


def _unify_words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _credit(equal_answers: int) -> float:
    return min(1.0, equal_answers / 3)
