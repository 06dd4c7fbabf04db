import pytest
import torch
from pretraining_case import CAPTIONS, TOKENIZER, make_batch, make_task

from vilta.evaluation.blindness import blindness_metrics
from vilta.objectives.hard_negatives import SynthesisedNegatives

GROUPS = {"colour": (("red", "crimson"), ("blue",), ("green",))}


def exchanged(pairs):
    """Write what ``pairs`` say, one word per caption, where it stands in the caption."""
    names = TOKENIZER.get_vocab()

    def write(batch):
        ids, changed = batch.input_ids.clone(), torch.zeros_like(batch.input_ids, dtype=torch.bool)
        for old, new in pairs:
            for row, place in (batch.input_ids == names[old]).nonzero().tolist():
                if not changed[row].any():
                    ids[row, place], changed[row, place] = names[new], True
        removed = torch.zeros(())
        return SynthesisedNegatives(
            input_ids=ids, changed=changed, valid=changed.any(1), removed=removed
        )

    return write


def slow_metrics(task, batch, write):
    """Pair by pair, through the model's own forward."""
    written, hits, counts = write(batch), {}, {}
    for i in range(len(batch)):
        if not written.valid[i]:
            continue
        for view, j in {"right_image": i, "wrong_image": (i + 1) % len(batch)}.items():
            if view == "wrong_image" and batch.image_ids[i] == batch.image_ids[j]:
                continue
            odds = [
                (
                    logits := task.model(
                        ids[i : i + 1],
                        batch.attention_mask[i : i + 1],
                        batch.pixel_values[j : j + 1],
                    ).match_logits[0]
                )[1]
                - logits[0]
                for ids in (batch.input_ids, written.input_ids)
            ]
            hits[view] = hits.get(view, 0) + int(odds[0] > odds[1])
            counts[view] = counts.get(view, 0) + 1
    return {view: 100 * hits[view] / counts[view] for view in hits}


@pytest.mark.parametrize("images", [[0, 1, 2, 3, 4], [0, 1, 1, 3, 0]])
def test_pair_by_pair(images):
    task = make_task().eval()
    batch = make_batch(task, images=images)
    write = exchanged([("blue", "green"), ("boat", "dog"), ("grass", "boat"), ("crimson", "red")])
    found = blindness_metrics(task.model, [batch], write, TOKENIZER, GROUPS)
    slow = slow_metrics(task, batch, write)
    assert {name: found[name] for name in slow} == slow and len(slow) == 2
    assert found["generated"] == 80, "there is no word to exchange in one of five captions"


def test_synonyms_are_counted_among_the_words_that_have_one():
    task = make_task().eval()
    batch = make_batch(task)
    for pairs, share in [
        ([("crimson", "red"), ("red", "crimson")], 100),
        ([("crimson", "blue"), ("red", "crimson")], 50),
        ([("crimson", "blue"), ("red", "green"), ("green", "red")], 0),
    ]:
        found = blindness_metrics(task.model, [batch], exchanged(pairs), TOKENIZER, GROUPS)
        assert found["synonyms"] == share
    found = blindness_metrics(task.model, [batch], exchanged([("boat", "dog")]), TOKENIZER, GROUPS)
    assert "synonyms" not in found, "nothing was counted"


def test_a_model_that_looks_is_told_from_one_that_reads():
    """What the text alone decides comes out the same with any image."""
    task = make_task().eval()
    batch = make_batch(task, images=[0, 1, 2, 3, 4])
    pairs = [("red", "blue"), ("dogs", "boat"), ("crimson", "blue"), ("green", "red")]
    with torch.no_grad():  # deaf to the image: matching sees text and the picture's bias alone
        for layer in task.model.vilta.fusion.text_layers:
            layer.cross.out.weight.zero_()
        task.model.itm_head.dense.weight[:, task.model.config.hidden_size :] = 0
    found = blindness_metrics(task.model, [batch], exchanged(pairs), TOKENIZER, GROUPS)
    assert found["right_image"] == found["wrong_image"]
    assert len(CAPTIONS) == 5 and found["generated"] == 80
    nothing = blindness_metrics(task.model, [batch], exchanged([]), TOKENIZER, GROUPS)
    assert nothing == {"generated": 0.0}
