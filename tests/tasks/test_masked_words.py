import pytest
import torch
from pretraining_case import CAPTIONS, make_batch, make_task

from vilta.tasks.masked_words import VIEWS, masked_word_figures


def plain_logits(model, batch, row, image_row):
    """One caption and one image at a time, as a user would run it."""
    ids, mask = batch.masked_input_ids[row : row + 1], batch.attention_mask[row : row + 1]
    out = model(ids, mask, batch.pixel_values[image_row : image_row + 1])
    return model.predict_words(out.last_hidden_state[0]), model.vilta.text(ids, mask).logits[0]


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention"])
def test_equals_plain_passes_and_plain_ranks(kind):
    task = make_task(fusion=kind)
    model = task.model.eval()
    batches = [make_batch(task), make_batch(task, CAPTIONS[:3], seed=4)]
    ranks = {view: [] for view in VIEWS}
    with torch.no_grad():
        for batch in batches:
            rows, length = batch.input_ids.shape
            for place in batch.masked_positions.tolist():
                row, column = divmod(place, length)
                word = batch.input_ids[row, column]
                right, text_only = plain_logits(model, batch, row, row)
                wrong, _ = plain_logits(model, batch, row, (row - 1) % rows)
                for view, logits in zip(VIEWS, (right, wrong, text_only), strict=True):
                    ranks[view].append(int((logits[column] > logits[column, word]).sum()))
    found = masked_word_figures(model, batches)
    for view in VIEWS:
        count = len(ranks[view])
        assert found[view]["top1"] == pytest.approx(100 * ranks[view].count(0) / count)
        assert found[view]["top5"] == pytest.approx(100 * sum(r < 5 for r in ranks[view]) / count)
    assert len({tuple(ranks[view]) for view in VIEWS}) == 3


def test_nothing_masked_gives_zeros_and_no_crash():
    task = make_task()
    assert masked_word_figures(task.model, []) == {v: {"top1": 0.0, "top5": 0.0} for v in VIEWS}
