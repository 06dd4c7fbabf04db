"""Teachers of pre-training: the moving average with its queue, and the controls."""

import pytest
import torch
from pretraining_case import make_batch, make_task
from torch.nn import functional as F

from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.shipped import find_shipped
from vilta.config.yaml_file import load_yaml
from vilta.objectives.matching import draw_in_batch_negatives
from vilta.tasks.key_queue import KeyQueue, Keys


def keys(first, count, width=3):
    ids = torch.arange(first, first + count)
    rows = F.normalize(torch.randn(count, width), dim=1)
    return Keys(rows, -rows, ids, ids + 100)


def test_queue_holds_the_newest_keys():
    queue, pushed = KeyQueue(5, 3), []
    assert torch.allclose(queue.image_embeds.norm(dim=1), torch.ones(5))
    assert (queue.image_ids < 0).all(), "the first keys belong to nobody"
    for first, count in [(0, 2), (2, 2), (4, 2), (6, 3)]:
        pushed.append(keys(first, count))
        queue.announce(pushed[-1])
        queue.push()
        held = set(queue.image_ids.tolist()) - {-1, -2, -3, -4, -5}
        newest = list(range(first + count))[-5:]
        assert held == set(newest)
    for i, image in zip(queue.image_ids.tolist(), queue.image_embeds, strict=True):
        source = next(k for k in pushed if i in k.image_ids)
        assert torch.equal(image, source.image_embeds[source.image_ids == i][0])
    queue.announce(keys(20, 9))
    queue.push()
    assert sorted(queue.caption_ids.tolist()) == [124, 125, 126, 127, 128], "more than it holds"


def test_keys_that_are_not_finite_leave_the_old_ones_in_the_queue():
    queue = KeyQueue(4, 3)
    queue.announce(keys(0, 4))
    queue.push()
    broken = keys(10, 3)
    broken.image_embeds[0, 1] = torch.nan
    broken.text_embeds[2] = torch.inf
    queue.announce(broken)
    queue.push()
    assert queue.image_embeds.isfinite().all() and queue.text_embeds.isfinite().all()
    assert queue.image_ids.tolist() == [0, 11, 2, 3]
    assert queue.caption_ids.tolist() == [100, 111, 102, 103]
    assert torch.equal(queue.text_embeds[1], broken.text_embeds[1])


def albef_losses(task, batch, alpha, queue):
    """The losses of ALBEF as its paper (arXiv 2107.07651, eq. 1 to 7) states them, one by one."""
    model, slow, mask = task.model, task.momentum_model, batch.attention_mask
    scale = model.itc_head.scale()
    out = model(batch.input_ids, mask, batch.pixel_values)
    with torch.no_grad():
        theirs = slow(batch.input_ids, mask, batch.pixel_values)
    all_texts = torch.cat([theirs.text_embeds, queue.text_embeds])
    all_images = torch.cat([theirs.image_embeds, queue.image_embeds])
    losses = []
    for own, momentum, others in [
        (out.image_embeds, theirs.image_embeds, all_texts),
        (out.text_embeds, theirs.text_embeds, all_images),
    ]:
        one_hot = torch.zeros(len(batch), len(others))
        one_hot.fill_diagonal_(1)
        soft = (scale * momentum @ others.T).softmax(1).detach()
        targets = alpha * soft + (1 - alpha) * one_hot
        losses.append(-(targets * (scale * own @ others.T).log_softmax(1)).sum(1).mean())
    ita = sum(losses) / 2

    at = batch.masked_positions
    original = batch.input_ids.flatten()[at]

    def words(which):
        out = which(batch.masked_input_ids, mask, batch.pixel_values)
        logits = which.predict_words(
            out.last_hidden_state.flatten(0, 1)[at], out.text_states.flatten(0, 1)[at]
        )
        return logits

    logits = words(model)
    soft = words(slow).softmax(1).detach()
    distilled = -(soft * logits.log_softmax(1)).sum(1).mean()
    mlm = (1 - alpha) * F.cross_entropy(logits, original) + alpha * distilled
    entropy = -(soft * soft.log()).sum(1).mean()
    return {"itc": ita, "mlm": mlm - alpha * entropy}  # KL instead of cross-entropy: same gradient


def preset_of(name):
    return load_yaml(find_shipped(name), PretrainConfig)


@pytest.mark.parametrize("fusion", ["cross-attention", "text-layers"])
def test_albef_preset_is_albefs_own_formula(fusion):
    preset = preset_of("albef")
    assert preset.model.fusion == "text-layers"
    settings = vars(preset.objective) | {"queue_size": 7}
    task = make_task(fusion=fusion, word_head=preset.model.word_head, **settings)
    batch = make_batch(task)  # five different images and captions
    task(batch)
    task.after_step()  # the queue has something in it
    batch = make_batch(task, seed=1)
    # No image or caption of the batch is in the queue: ALBEF's targets do not know of equals.
    task.queue.image_ids.copy_(-1 - torch.arange(7))
    task.queue.caption_ids.copy_(-1 - torch.arange(7))
    torch.manual_seed(3)
    losses = task(batch)
    expected = albef_losses(task, batch, 0.4, task.queue)
    for name, value in expected.items():
        torch.testing.assert_close(losses.metrics[name], value.detach(), atol=1e-5, rtol=1e-5)
    parts = losses.metrics
    # One cross-entropy over B true pairs and 2B false ones.
    mean = (
        parts["itm/loss_true"] + parts["itm/loss_other_text"] + parts["itm/loss_other_image"]
    ) / 3
    torch.testing.assert_close(parts["itm"], mean)
    torch.testing.assert_close(losses.total.detach(), parts["itc"] + parts["mlm"] + parts["itm"])


def test_meter_preset_is_meters_own_formula():
    """Two plain cross-entropies; matching is one mean over as many true as false pairs."""
    settings = preset_of("meter").objective
    task = make_task(word_head="separate", **vars(settings))
    assert task.teacher is None and task.momentum_model is None
    batch = make_batch(task)
    torch.manual_seed(3)
    losses = task(batch)
    model, mask, at = task.model, batch.attention_mask, batch.masked_positions
    out = model(batch.masked_input_ids, mask, batch.pixel_values)
    logits = model.predict_words(
        out.last_hidden_state.flatten(0, 1)[at], out.text_states.flatten(0, 1)[at]
    )
    mlm = F.cross_entropy(logits, batch.input_ids.flatten()[at])
    torch.manual_seed(3)
    drawn = draw_in_batch_negatives(
        None, batch.image_ids, batch.caption_ids, hardness=0.0, both=False
    )
    true = model(batch.input_ids, mask, batch.pixel_values).match_logits
    false = model(
        batch.input_ids[drawn.text], mask[drawn.text], batch.pixel_values[drawn.image]
    ).match_logits
    labels = torch.tensor([1] * len(batch) + [0] * len(batch))
    itm = F.cross_entropy(torch.cat([true, false]), labels)
    torch.testing.assert_close(losses.total, mlm + itm, atol=1e-5, rtol=1e-5)
    assert set(losses.metrics) >= {"mlm", "itm"} and not {"itc", "text_mlm"} & set(losses.metrics)


def test_presets_follow_their_papers():
    meter, albef = preset_of("meter"), preset_of("albef")
    assert (meter.optimization.lr, meter.optimization.encoder_lr_multiplier) == (5e-5, 0.2)
    assert meter.objective.mask_rate == albef.objective.mask_rate == 0.15
    assert (albef.objective.momentum, albef.objective.alpha) == (0.995, 0.4)
    assert albef.objective.queue_size == 65536


def test_shuffled_labels_have_the_entropy_of_the_teachers_and_not_its_words():
    plain, control = make_task(), make_task(soft_labels="shuffled")
    batch = make_batch(plain)
    taught, shuffled = plain.soft_labels(batch), control.soft_labels(batch)
    assert not torch.equal(taught, shuffled)
    torch.testing.assert_close(taught.sort(1).values, shuffled.sort(1).values)


def test_the_frozen_writer_is_the_teacher():
    task = make_task(negative_generator="frozen")
    batch = make_batch(task)
    image = task.model.vilta.encode_image(batch.pixel_values)
    words = task.expected_words(batch, image)
    expected = task.teacher(input_ids=batch.masked_input_ids, attention_mask=batch.attention_mask)
    found = task.generator_logits(batch, words)
    torch.testing.assert_close(found, expected.logits.flatten(0, 1)[batch.masked_positions])
    current = make_task()
    words = current.expected_words(batch, image)
    assert current.generator_logits(batch, words) is words.text_logits


def test_synonyms_are_protected_by_the_teacher_when_the_student_has_memorised():
    """The student is sure of its word; the teacher, reading the clean caption, knows another."""
    task = make_task(filter_ratio=0.1, teacher_filter_ratio=0.01, min_p=0.0, candidates=1000)
    batch = make_batch(task, rate=1.0)
    at, size = batch.masked_positions, task.words.tables().whole.shape[0]
    original = batch.input_ids.flatten()[at]
    sure = torch.full((len(at), size), -10.0).scatter(1, original[:, None], 10.0)
    words = task.expected_words(batch, task.model.vilta.encode_image(batch.pixel_values))
    words = words._replace(logits=sure, text_logits=torch.zeros_like(sure))
    clean = task.teacher_logits(batch, batch.input_ids)
    bar = clean.gather(1, original[:, None]) + torch.tensor(0.01).log()
    seen = 0
    for seed in range(10):
        torch.manual_seed(seed)
        found = task.generate_negatives(batch, words, None, "grounded")
        changed = found.changed.flatten()[at]
        new = found.input_ids.flatten()[at]
        seen += int(changed.sum())
        assert (clean.gather(1, new[:, None]) < bar)[:, 0][changed].all()
    unprotected = make_task(filter_ratio=0.1, teacher_filter_ratio=0.0, min_p=0.0, candidates=1000)
    torch.manual_seed(0)
    found = unprotected.generate_negatives(batch, words, None, "grounded")
    assert found.valid.all() and found.changed.sum() > 0
    assert seen < 10 * int(found.changed.sum()), "the teacher rejects some"


def test_queue_without_momentum_is_refused():
    with pytest.raises(ValueError, match="queue_size is for itc_targets: momentum"):
        ObjectiveConfig(queue_size=4).check()
