from dataclasses import replace

import pytest
import torch
from pretraining_case import CAPTIONS, make_batch, make_task
from tiny_models import text_alone

from vilta.evaluation.masked_words import (
    VIEWS,
    has_wrong_image,
    masked_word_logits,
    masked_word_metrics,
)


def plain_logits(model, batch, row, image_row):
    """One caption and one image at a time, as a user would run it."""
    ids, mask = batch.masked_input_ids[row : row + 1], batch.attention_mask[row : row + 1]
    out = model(ids, mask, batch.pixel_values[image_row : image_row + 1])
    words = model.predict_words(out.last_hidden_state[0], out.text_states[0])
    return words, text_alone(model, ids, mask)[0]


@pytest.mark.parametrize("kind", ["co-attention", "cross-attention", "text-layers"])
def test_equals_plain_passes_and_plain_ranks(kind):
    task = make_task(fusion=kind)
    model = task.model.eval()
    batches = [make_batch(task), make_batch(task, CAPTIONS[:3], seed=4)]
    ranks = {view: [] for view in VIEWS}
    with torch.no_grad():
        for batch in batches:
            rows, length = batch.input_ids.shape
            found = masked_word_logits(model, batch)
            for at, place in enumerate(batch.masked_positions.tolist()):
                row, column = divmod(place, length)
                word = batch.input_ids[row, column]
                right, text_only = plain_logits(model, batch, row, row)
                wrong, _ = plain_logits(model, batch, row, (row + 1) % rows)
                for view, logits in zip(VIEWS, (right, wrong, text_only), strict=True):
                    torch.testing.assert_close(found[view][at], logits[column], msg=view)
                    ranks[view].append(int((logits[column] > logits[column, word]).sum()))
    metrics = masked_word_metrics(model, batches)
    for view in VIEWS:
        count = len(ranks[view])
        assert metrics[view]["top1"] == pytest.approx(100 * ranks[view].count(0) / count)
        assert metrics[view]["top5"] == pytest.approx(100 * sum(r < 5 for r in ranks[view]) / count)
    assert len({tuple(ranks[view]) for view in VIEWS}) == 3


def test_the_fifth_word_is_among_the_first_five_and_the_sixth_is_not():
    task = make_task()
    batch = make_batch(task)
    ranked = masked_word_logits(task.model, batch)["with_image"].argsort(dim=1, descending=True)
    for place, top5 in [(4, 100.0), (5, 0.0)]:
        ids = batch.input_ids.flatten().clone()
        ids[batch.masked_positions] = ranked[:, place]
        asked = replace(batch, input_ids=ids.view_as(batch.input_ids))
        found = masked_word_metrics(task.model, [asked])["with_image"]
        assert found == {"top1": 0.0, "top5": top5}


def test_the_right_image_never_counts_as_the_wrong_one():
    """Alone in its batch, or before another caption of its image, a pair has no wrong image."""
    task = make_task()
    alone, others = make_batch(task, CAPTIONS[:1]), make_batch(task, CAPTIONS[1:], seed=4)
    again = make_batch(task, CAPTIONS, images=[0, 0, 1, 2, 3])
    assert not has_wrong_image(alone).any() and has_wrong_image(others).all()
    first_row = again.masked_positions < again.input_ids.shape[1]
    assert first_row.any() and torch.equal(has_wrong_image(again), ~first_row)
    both = masked_word_metrics(task.model, [alone, others])
    assert both["wrong_image"] == masked_word_metrics(task.model, [others])["wrong_image"]
    assert set(masked_word_metrics(task.model, [alone])) == {"with_image", "text_only"}


def test_nothing_masked_gives_no_figures_and_no_crash():
    task = make_task()
    assert masked_word_metrics(task.model, []) == {}
