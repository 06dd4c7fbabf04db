"""Which candidates a filter lets through, against the slow rule written out."""

import math

import pytest
import torch
from benchmarks.flickr8k.synonym_filters import FILTERS, judged, summary
from pretraining_case import TOKENIZER, make_batch, make_task

GROUPS = {"colour": (("red", "crimson"), ("blue",), ("green",))}


@pytest.fixture(scope="module")
def task():
    return make_task(min_p=0.01, soft_labels="language_model").eval()


def test_each_filter_is_asked_about_synonyms_and_wrong_words(task):
    batch = make_batch(task, rate=0.9)
    words = judged(task, [batch], GROUPS)
    red, crimson, blue, green = TOKENIZER.convert_tokens_to_ids(["red", "crimson", "blue", "green"])
    assert words and {word.word for word in words} <= {red, crimson}
    original = batch.input_ids.flatten()[batch.masked_positions]
    with torch.no_grad():
        expected = task.expected_words(batch, task.model.vilta.encode_image(batch.pixel_values))
        q = task.soft_labels(batch).softmax(1)
        own = (expected.logits.softmax(1) - task.objective.alpha * q).clamp(min=0)
        clean = task.teacher_logits(batch, batch.input_ids).softmax(1)
        text = expected.text_logits.softmax(1)
    whole = task.words.tables().whole
    at = [i for i, word in enumerate(original.tolist()) if word in (red, crimson)]
    asked = 0
    for word, i in zip(words, at, strict=True):
        other = crimson if word.word == red else red
        for found, tokens in ((word.synonyms, [other]), (word.wrong, [blue, green])):
            fitting = [t for t in tokens if text[i, t] >= 0.01 * text[i][whole].max() * 0.999999]
            assert set(found) == set(fitting)
            for token, through in found.items():
                for name, ratios in FILTERS.items():
                    rejected = any(
                        ratio and p[i, token] > 0 and p[i, token] >= ratio * p[i, word.word]
                        for p, ratio in zip((own, clean), ratios, strict=True)
                    )
                    assert through[name] == (not rejected), name
                    asked += 1
        assert all(math.isnan(share) or 0 <= share <= 1 for share in word.drawn.values())
    assert asked > len(FILTERS)


def test_shares_and_pairs(task):
    words = judged(task, [make_batch(task, rate=0.9, seed=seed) for seed in range(3)], GROUPS)
    found = summary(words, task)
    none = found["filters"]["none"]
    assert none["synonyms_let_through"]["mean"] == none["wrong_let_through"]["mean"] == 100
    assert found["words"] == len(words)
    assert sum(pair["count"] for pair in found["pairs"].values()) == found["synonyms"]
    assert (
        set(found["pairs"]) == {"crimson / red"} and found["pairs"]["crimson / red"]["none"] == 100
    )
    for row in found["filters"].values():
        assert row["words_without_negative"] >= none["words_without_negative"]
