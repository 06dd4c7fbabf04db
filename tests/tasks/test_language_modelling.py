import pytest
import torch
from pretraining_case import TOKENIZER, make_batch, make_task, without_dropout
from tiny_models import TEXT, scramble
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer

from vilta.tasks.language_modelling import LanguageModellingTask


@pytest.fixture
def task():
    torch.manual_seed(0)
    model = without_dropout(scramble(AutoModelForMaskedLM.from_config(TEXT["bert"])))
    return LanguageModellingTask(model, TOKENIZER)


def words(task, batch):
    """Full logits of the plain model, then the masked positions."""
    logits = task.model(
        input_ids=batch.masked_input_ids, attention_mask=batch.attention_mask
    ).logits
    at = batch.masked_positions
    return logits.flatten(0, 1)[at], batch.input_ids.flatten()[at]


def test_loss_and_figures_equal_plain_passes(task):
    batches = [make_batch(make_task(), seed=seed) for seed in range(3)]
    losses = task(batches[0])
    torch.testing.assert_close(losses.total, F.cross_entropy(*words(task, batches[0])))
    hits = {1: 0, 5: 0}
    count = 0
    for batch in batches:
        logits, original = words(task, batch)
        count += len(original)
        for row, word in zip(logits, original, strict=True):
            rank = (row > row[word]).sum().item()
            hits = {k: n + (rank < k) for k, n in hits.items()}
    metrics = task.evaluate(batches)
    assert count > 10
    assert metrics["text/top1"] == pytest.approx(100 * hits[1] / count)
    assert metrics["text/top5"] == pytest.approx(100 * hits[5] / count)


def test_batch_without_words_is_no_accident(task):
    batch = make_batch(make_task(), captions=["", "zz"])
    losses = task(batch)
    losses.total.backward()
    assert losses.total.item() == 0 and losses.metrics["text/top1"] == 0
    assert task.evaluate([batch]) == {"text/top1": 0.0, "text/top5": 0.0}


def test_all_of_it_is_an_encoder_and_is_saved(task, tmp_path):
    (group,) = task.parameter_groups().values()
    assert {id(p) for p in group} == {id(p) for p in task.model.parameters()}
    task.save_pretrained(str(tmp_path))
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[k], v) for k, v in task.model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == TOKENIZER.get_vocab()
