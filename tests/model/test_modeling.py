import collections
import copy
import itertools

import pytest
import torch
from tiny_models import (
    TEXT,
    VISION,
    pixels_of,
    scramble,
    tiny_config,
    tiny_vilta,
    tokens_of,
)
from torch.nn import functional as F
from transformers import AutoModel

from vilta.model import ViltaForPreTraining
from vilta.model.attention import attend
from vilta.model.fusion import Fusion, Pairs

OWN_LAYERS = ["co-attention", "cross-attention"]
KINDS = [*OWN_LAYERS, "text-layers"]
POOLINGS = ["first", "mean"]
CLOSE = dict(atol=1e-5, rtol=1e-5)


def outputs(model, ids, mask, pixels, rows=slice(None)):
    with torch.no_grad():
        out = model(ids, mask, pixels)
        text = model.vilta.encode_text(ids, mask)
        similarity = model.similarity(model.vilta.encode_image(pixels), text, mask)
    return {
        "states": out.last_hidden_state[rows],
        "text": text[rows],
        "match": out.match_logits[rows],
        "text_embeds": out.text_embeds[rows],
        "image_embeds": out.image_embeds[rows],
        "similarity": similarity[rows][:, rows],
    }


def assert_same(got, expected, length):
    for name, value in expected.items():
        other = got[name][:, :length] if name in ("states", "text") else got[name]
        torch.testing.assert_close(other, value, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("kind", "text"),
    [*itertools.product(OWN_LAYERS, TEXT), ("text-layers", "bert"), ("text-layers", "roberta")],
)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_nothing(kind, pooling, text):
    model = tiny_vilta(text=text, fusion=kind, pooling=pooling)
    ids, mask = tokens_of(6)
    pixels = pixels_of()
    alone = outputs(model, ids, mask, pixels)
    for filler in (model.config.text_config.pad_token_id, 7):  # what stands there is not read
        padded = F.pad(ids, (0, 5), value=filler)
        if text in ("roberta", "mpnet") and filler == 7:
            continue  # these two number positions by the padding token itself
        assert_same(outputs(model, padded, F.pad(mask, (0, 5)), pixels), alone, 6)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_change_nothing(kind, vision):
    model = tiny_vilta(vision, fusion=kind)
    ids, mask = tokens_of(6, rows=4)
    pixels = pixels_of(4)
    together = outputs(model, ids, mask, pixels, slice(1, 2))
    alone = outputs(model, ids[1:2], mask[1:2], pixels[1:2])
    assert_same(together, alone, 6)
    assert alone["match"].std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_token_and_the_image_are_read(kind, pooling):
    model = tiny_vilta(fusion=kind, pooling=pooling)
    ids, mask = tokens_of(6)
    pixels = pixels_of()
    before = outputs(model, ids, mask, pixels)["match"]
    changed = ids.clone()
    changed[:, 4] = 5 + (changed[:, 4] - 4) % 90
    assert (outputs(model, changed, mask, pixels)["match"] - before).abs().min() > 1e-5
    assert (outputs(model, ids, mask, 255 - pixels)["match"] - before).abs().min() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_shared_rows_equal_gathered_rows(kind, pooling):
    model = tiny_vilta(fusion=kind, pooling=pooling)
    ids, mask = tokens_of(7, rows=4)
    mask[2, 5:] = 0
    with torch.no_grad():
        text = model.vilta.encode_text(ids, mask)
        image = model.vilta.encode_image(pixels_of(3))
        pairs = Pairs(torch.tensor([0, 1, 3, 3, 2, 0]), torch.tensor([2, 0, 0, 1, 1, 2]))
        gathered = (text[pairs.text], mask[pairs.text], image[pairs.image])
        for part in ("text", "image"):
            shared = getattr(model.vilta.fuse(text, mask, image, pairs), part)
            plain = getattr(model.vilta.fuse(*gathered), part)
            if part == "image" and kind == "cross-attention":
                assert shared is None and plain is None
                continue
            torch.testing.assert_close(shared, plain, **CLOSE)
        logits = model.match(text, mask, image, pairs)
        full = model.vilta.fuse(*gathered)
        plain = model.itm_head(model.vilta.pool_fused(full, mask[pairs.text].bool()))
    torch.testing.assert_close(logits, plain, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("image_pooling", POOLINGS)
def test_pooled_only_equals_the_full_pass(kind, pooling, image_pooling):
    model = tiny_vilta(fusion=kind, pooling=pooling, image_pooling=image_pooling)
    ids, mask = tokens_of(7)
    mask[0, 4:] = 0
    with torch.no_grad():
        text, image = model.vilta.encode_text(ids, mask), model.vilta.encode_image(pixels_of())
        full = model.vilta.fuse(text, mask, image)
        short = model.vilta.fuse(text, mask, image, pooled_only=True)
        got = model.vilta.pool_fused(short, mask.bool())
        torch.testing.assert_close(got, model.vilta.pool_fused(full, mask.bool()), **CLOSE)
    assert short.text.shape[1] == (1 if pooling == "first" else 7)
    if kind == "co-attention":
        assert short.image.shape[1] == (1 if image_pooling == "first" else full.image.shape[1])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_fusing_at_positions_equals_the_full_pass_there(kind, checkpointing):
    model = tiny_vilta(fusion=kind, dropout=0.0).vilta
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    mask = tokens_of(7, rows=3)[1]
    mask[0, 4:] = 0
    text, image = torch.randn(3, 7, 32), torch.randn(3, 17, 32)
    at = torch.tensor([1, 3, 8, 14, 20])
    found = []
    for states in (
        model.fuse(text, mask, image).text.flatten(0, 1)[at],
        model.fuse_at(at, text, mask, image),
    ):
        weights = [p for n, p in model.fusion.named_parameters() if n.startswith("text_layers.")]
        found.append([states, *torch.autograd.grad(states.square().sum(), weights)])
    for full, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, full, **CLOSE)


def test_mean_pooling_is_over_real_tokens_alone():
    model = tiny_vilta(fusion="cross-attention", pooling="mean")
    ids, mask = tokens_of(5, rows=1)
    mask[0, 3:] = 0
    with torch.no_grad():
        out = model.vilta(ids, mask, pixels_of(1))
    torch.testing.assert_close(out.pooled[0], out.last_hidden_state[0, :3].mean(dim=0), **CLOSE)


@pytest.mark.parametrize("masked", [False, True])
def test_both_forms_of_attention_agree(masked):
    queries, keys, values = torch.randn(3, 2, 4, 6, 16, dtype=torch.bfloat16)
    mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    mask[1, ..., 3:] = False
    plain = attend(queries, keys, values, mask if masked else None)
    with torch.no_grad():
        fused = attend(queries, keys, values, mask if masked else None)
    exact = F.scaled_dot_product_attention(
        queries.float(), keys.float(), values.float(), attn_mask=mask if masked else None
    )
    torch.testing.assert_close(plain.float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(fused.float(), exact, atol=0.03, rtol=0.03)
    if masked:  # not even a trace of what is hidden
        keys[1, :, 3:], values[1, :, 3:] = 100, 100
        assert torch.equal(attend(queries, keys, values, mask), plain)


@pytest.mark.parametrize(
    ("vision", "text", "kind"),
    [
        *((vision, "bert", "co-attention") for vision in VISION),
        *(("vit", text, "cross-attention") for text in TEXT),
    ],
)
def test_gradient_checkpointing_gives_the_same_gradients(vision, text, kind):
    plain = tiny_vilta(vision, text, fusion=kind)
    model = copy.deepcopy(plain)
    model.gradient_checkpointing_enable()
    losses, calls = [], []
    for each in (plain, model):
        without_dropout(each.train())
        calls.append(count_calls(each))
        ids, mask = tokens_of(6)
        states, image = each.vilta.encode_text(ids, mask), each.vilta.encode_image(pixels_of())
        loss = each.match(states, mask, image)[:, 1].sum() + image.square().mean()
        loss = loss + each.similarity(image, states, mask).mean()
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses, **CLOSE)
    for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
    # What is checkpointed runs once more in the backward pass.
    for part in ("vilta.vision", "vilta.text", "vilta.fusion"):
        once, twice = (sum(v for k, v in c.items() if k.startswith(part)) for c in calls)
        assert twice > 1.5 * once, (part, once, twice)


@pytest.mark.parametrize("passes", [1, 2])
def test_gradient_checkpointing_counts_an_image_once_in_the_running_statistics(passes):
    plain = tiny_vilta("resnet", freeze_batch_norm=False).train()
    model = copy.deepcopy(plain)
    model.gradient_checkpointing_enable()
    start = {name: value.clone() for name, value in plain.named_buffers() if "running" in name}
    for each in (plain, model):
        images = [each.vilta.encode_image(pixels_of(seed=seed)) for seed in range(passes)]
        sum(image.square().mean() for image in images).backward()
    found = dict(model.named_buffers())
    for name, value in plain.named_buffers():
        assert torch.equal(found[name], value), name
    assert start and all(not torch.equal(found[name], value) for name, value in start.items())
    for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, **CLOSE, msg=name)


def count_calls(model):
    calls = collections.Counter()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(lambda *_, n=name: calls.update([n]))
    return calls


def without_dropout(model):
    for module in model.modules():
        for name in ("p", "drop_prob", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def test_checkpointed_dropout_is_the_same_in_both_passes():
    model = tiny_vilta(dropout=0.5)
    model.gradient_checkpointing_enable()
    fusion: Fusion = model.vilta.fusion.train()
    text, image = torch.randn(2, 5, 32), torch.randn(2, 4, 32)
    grads = []
    for checkpointing in (True, False):
        fusion.gradient_checkpointing = checkpointing
        fusion.zero_grad()
        torch.manual_seed(0)
        fusion(text, torch.ones(2, 5, dtype=torch.bool), image).text.square().sum().backward()
        grads.append(fusion.text_layers[0].mlp[0].weight.grad.clone())
    torch.testing.assert_close(*grads, **CLOSE)


@pytest.mark.parametrize("vision", VISION)
def test_forward_changes_no_weight_and_no_buffer(vision):
    model = tiny_vilta(vision).train()
    before = copy.deepcopy(dict(model.state_dict()))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    model(*tokens_of(5), pixels_of()).match_logits.sum().backward()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("vision", VISION)
def test_the_whole_model_in_another_precision(vision, dtype):
    model = tiny_vilta(vision)
    ids, mask = tokens_of(5)
    exact = outputs(model, ids, mask, pixels_of())
    cast = outputs(model.to(dtype), ids, mask, pixels_of())
    for name in ("text_embeds", "image_embeds"):
        torch.testing.assert_close(cast[name].float(), exact[name], atol=0.1, rtol=0)


def test_batch_norm_keeps_its_statistics_and_hence_rows_stay_apart():
    model = tiny_vilta("resnet").train()
    assert model.training and model.vilta.vision.training
    pixels = pixels_of(3)
    torch.testing.assert_close(
        model.vilta.encode_image(pixels)[:1], model.vilta.encode_image(pixels[:1]), **CLOSE
    )


def test_batch_norm_of_an_encoder_from_scratch_learns_its_statistics(tmp_path):
    encoder = AutoModel.from_config(VISION["resnet"])
    encoder.save_pretrained(tmp_path)
    settings = dict(hidden_size=32, num_attention_heads=4, image_size=32, max_text_tokens=16)
    for source, learns in [(VISION["resnet"], True), (str(tmp_path), False)]:
        model = ViltaForPreTraining.from_encoders(source, TEXT["bert"], **settings).train()
        before = {k: v.clone() for k, v in model.vilta.vision.named_buffers()}
        model.vilta.encode_image(pixels_of(3))
        after = dict(model.vilta.vision.named_buffers())
        means = [name for name in before if name.endswith("running_mean")]
        assert len(means) > 2
        for name in means:
            assert torch.equal(before[name], after[name]) != learns, name
        assert not any(m.training for m in model.eval().modules())
    settings["freeze_batch_norm"] = True
    model = ViltaForPreTraining.from_encoders(VISION["resnet"], TEXT["bert"], **settings)
    assert model.config.freeze_batch_norm


def test_an_encoder_without_a_trainable_weight_keeps_its_statistics_too():
    """They were learnt, as in pre-training from scratch, before the encoder was frozen."""
    model = tiny_vilta("resnet", freeze_batch_norm=False)
    model.vilta.vision.requires_grad_(False)
    before = {k: v.clone() for k, v in model.vilta.vision.named_buffers()}
    alone, beside = (model.train().vilta.encode_image(pixels_of(rows))[:1] for rows in (1, 3))
    torch.testing.assert_close(alone, beside)
    after = dict(model.vilta.vision.named_buffers())
    assert before and all(torch.equal(after[name], value) for name, value in before.items())


def test_temperature_is_clamped():
    model = tiny_vilta()
    with torch.no_grad():
        model.itc_head.log_scale.fill_(9.0)
    assert model.itc_head.scale().item() == pytest.approx(100)
    assert scramble(tiny_vilta(), 0.0).itc_head.scale().item() < 100


def test_scores_that_ranks_are_read_from_are_float32_under_autocast():
    model = tiny_vilta().eval()
    ids, mask = tokens_of(6, rows=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image, text = model.vilta.encode_image(pixels_of(4)), model.vilta.encode_text(ids, mask)
        similarity = model.similarity(image, text, mask)
        scores = model.match(text, mask, image)
        fused = model.vilta.fuse(text, mask, image, pooled_only=True)
        pooled = model.vilta.pool_fused(fused, mask.bool())
        left, right = model.embed_image(image), model.embed_text(text, mask)
    with torch.no_grad():
        exact = model.itc_head.scale() * left @ right.T
        torch.testing.assert_close(similarity, exact, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(scores, model.itm_head(pooled.float()), atol=1e-6, rtol=1e-6)
    assert similarity.dtype == scores.dtype == torch.float32
    assert not torch.equal(similarity, similarity.bfloat16().float())


@pytest.mark.parametrize("text", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("kind", OWN_LAYERS)
def test_words_begin_as_the_text_alone_expects_them_and_then_follow_the_image(kind, text):
    model = ViltaForPreTraining(
        tiny_config(text=text, fusion=kind, word_head="language_model")
    ).eval()
    ids, mask = tokens_of(3)
    out = [model(ids, mask, pixels_of(3, seed=seed)) for seed in (0, 1)]
    alone = model.vilta.text(input_ids=ids, attention_mask=mask).logits[mask.bool()]

    def words(output):
        states = output.last_hidden_state[mask.bool()], output.text_states[mask.bool()]
        return model.predict_words(*states)

    torch.testing.assert_close(words(out[0]), alone, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        model.mlm_head.weight.normal_()
    assert (words(out[0]) - words(out[1])).abs().max() > 1e-4
