"""Probability of synonyms against a plain sum over words."""

import pytest
import torch
from pretraining_case import TOKENIZER, make_batch, make_task

from vilta.evaluation.synonyms import PHOTOS, SCENES, SynonymTable, synonym_metrics

GROUPS = {"colour": (("red", "crimson"), ("blue",), ("green",)), "thing": (("cube",), ("boat",))}


def test_it_is_the_sum_over_the_words_of_each_side():
    task = make_task().eval()
    batches = [make_batch(task, rate=0.9, seed=seed) for seed in (0, 1)]
    found = synonym_metrics(task.model, batches, TOKENIZER, GROUPS)
    red, crimson, blue, green = TOKENIZER.convert_tokens_to_ids(["red", "crimson", "blue", "green"])
    rows = []
    for batch in batches:
        out = task.model(batch.masked_input_ids, batch.attention_mask, batch.pixel_values)
        logits = task.model.predict_words(
            out.last_hidden_state.flatten(0, 1), out.text_states.flatten(0, 1)
        )
        for at in batch.masked_positions.tolist():
            p, word = logits[at].softmax(0), batch.input_ids.flatten()[at].item()
            if word in (red, crimson):
                other = crimson if word == red else red
                rows.append(torch.stack([p[word], p[other], p[blue] + p[green]]))
    true, synonym, wrong = (100 * torch.stack(rows).mean(0)).tolist()
    assert found["count"] == len(rows) >= 2
    assert found["true"] == pytest.approx(true, rel=1e-4)
    assert found["synonym"] == pytest.approx(synonym, rel=1e-4)
    assert found["wrong"] == pytest.approx(wrong, rel=1e-4)


def test_words_without_a_synonym_are_not_counted():
    task = make_task().eval()
    batch = make_batch(task, rate=0.9)
    assert synonym_metrics(task.model, [batch], TOKENIZER, {"a": (("red",), ("blue",))}) == {}
    several = {"a": (("skateboarder", "boat"), ("cube",))}  # a word of several pieces has no token
    assert synonym_metrics(task.model, [batch], TOKENIZER, several) == {}


def test_a_negative_by_a_synonym_is_told_from_one_by_another_word():
    table = SynonymTable(TOKENIZER, len(TOKENIZER))
    number = TOKENIZER.get_vocab()

    def exchanged(*pairs):
        before, after = (
            torch.tensor([[number[word] for word in side]]) for side in zip(*pairs, strict=True)
        )
        share, known = table.exchanged(before, after, before != after)
        return share.item(), known.item()

    assert "crimson" in SCENES["colour"][0], "the words below are on the lists"
    assert exchanged(("red", "crimson"), ("crimson", "red"), ("red", "red")) == (1.0, 2)
    assert exchanged(("red", "crimson"), ("crimson", "blue")) == (0.5, 2)
    assert exchanged(("red", "blue"), ("boat", "dog")) == (0.0, 1), "a boat has no synonym there"
    share, known = exchanged(("boat", "dog"), ("red", "red"))
    assert share != share and known == 0
    assert not any("boat" in group for kind in PHOTOS.values() for group in kind if len(group) > 1)


def test_a_step_counts_the_negatives_that_are_synonyms():
    """The text is made to like one word above all, which may not replace itself."""
    task = make_task(negatives="none", candidates=1)
    batch = make_batch(task, captions=["red", "red", "crimson", "boat"], rate=0.9)
    crimson = TOKENIZER.convert_tokens_to_ids("crimson")

    def likes(batch, words):
        logits = torch.zeros(len(batch.masked_positions), len(task.words.whole))
        logits[:, crimson] = 2.0  # another word is above min_p
        return logits

    task.generator_logits = likes
    losses = task(batch)
    assert losses.metrics["negatives/share"] == 1
    assert losses.metrics["negatives/synonyms"].item() == pytest.approx(2 / 3)
    assert losses.metric_counts["negatives/synonyms"] == 3
