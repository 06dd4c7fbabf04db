"""VQA accuracy against several annotators, as the official VQAv2 evaluator computes it.

Source: GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py at commit a013f00. Its
quirks are part of every published number, so they are reproduced and named here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# Meant to keep decimal points, but checks only what follows: ".5" keeps its point, "5." loses it.
_PERIOD = re.compile(r"\.(?!\d)")
# The evaluator passes the flag `re.UNICODE` (32) where `re.sub` expects the number of replacements.
_MOST_PERIODS = 32

_ARTICLES = frozenset({"a", "an", "the"})
_UP_TO_TEN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_UP_TO_TEN)}

# Words are lower-cased before the lookup, so the entries with a capital letter are never found.
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
    # Typos in the evaluator's table: two entries map to themselves, one loses its apostrophe.
    "let's": "let's",
    "she's": "she's",
    "somebody'd": "somebodyd",
}

_SOFT_SCORES = (0.3, 0.6, 0.9, 1.0)


def normalise_answer(answer: str) -> str:
    """Normalise an answer as the evaluator does: ``"Two dogs."`` becomes ``"2 dogs"``.

    In this order: line breaks and tabs become spaces; most punctuation (not apostrophe and colon)
    becomes a space, or is removed if the answer has that mark next to a space or has a comma
    between digits; periods are removed unless a digit follows; letters become lower case; number
    words up to ten become digits ("none" is 0); articles are removed; missing apostrophes of
    contractions are restored. The result may be empty: "the" becomes "".
    """
    return _unify_words(_strip_punctuation(_clean(answer)))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement of a prediction with the annotators' answers, in [0, 1].

    Each annotator is left out in turn; each of the others who gave the predicted answer adds a
    third, up to 1; the result is the mean over the annotators. With ten annotators, one equal
    answer is worth 0.3, two 0.6, three 0.9, four or more 1.

    Prediction and answers are normalised only if the answers differ. If all agree, only line
    breaks and surrounding white space are, so "Yes." does not match ten times "yes": the
    evaluator's authors meant to leave text that is read off the image untouched.

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
    """Return a question's training targets: each normalised answer with its score in (0, 1].

    An answer given by one annotator scores 0.3, by two 0.6, by three 0.9, by four or more 1, which
    is its `vqa_accuracy` with ten annotators who differ. METER's preparation counts the published
    strings, most of which are normalised already; here spellings of one answer are added up.
    """
    counts = Counter(normalise_answer(answer) for answer in answers)
    return {
        answer: _SOFT_SCORES[min(count, len(_SOFT_SCORES)) - 1] for answer, count in counts.items()
    }


def mean_vqa_accuracy(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], answer_types: Sequence[str]
) -> dict[str, float]:
    """Return the mean accuracy over questions in percent: ``overall``, and per answer type.

    The three sequences run over the same questions; VQAv2's types are "yes/no", "number" and
    "other". Nothing is rounded (the evaluator prints two decimals).

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
    """Remove each mark or replace it by a space, as decided once from the unchanged text."""
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
