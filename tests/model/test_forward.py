"""The model called as a model of transformers is called, and what its pipelines make of it."""

import pytest
import torch
from PIL import Image
from tiny_models import known_tokenizer, pixels_of, tiny_vilta, tokens_of
from torch.nn import functional as F
from transformers import pipeline

from vilta.model import ViltaForZeroShotImageClassification, ViltaModel, ViltaProcessor
from vilta.model.attention import recorded_attention
from vilta.model.fusion import Pairs

CLOSE = dict(atol=1e-5, rtol=1e-5)
KINDS = ["co-attention", "cross-attention", "text-layers"]
RANKINGS = ["contrastive", "matching", "combined"]


@torch.no_grad()
def test_features_are_the_embeddings_of_the_pairs():
    model = tiny_vilta()
    ids, mask = tokens_of(6, rows=3)
    mask[1, 4:] = 0
    batch = dict(input_ids=ids, attention_mask=mask, pixel_values=pixels_of(3))
    pairs = model(**batch)
    image = model.get_image_features(**batch)
    text = model.get_text_features(**batch)
    torch.testing.assert_close(image.pooler_output, pairs.image_embeds, **CLOSE)
    torch.testing.assert_close(text.pooler_output, pairs.text_embeds, **CLOSE)
    torch.testing.assert_close(image.last_hidden_state, pairs.image_states, **CLOSE)
    torch.testing.assert_close(text.last_hidden_state, pairs.text_states, **CLOSE)
    torch.testing.assert_close(image.pooler_output.norm(dim=-1), torch.ones(3))
    assert isinstance(model.get_image_features(pixels_of(), return_dict=False), tuple)


@torch.no_grad()
def test_text_alone_and_images_alone():
    model = tiny_vilta()
    ids, mask = tokens_of(6)
    both = model(ids, mask, pixels_of())
    text, image = model(ids, mask), model(pixel_values=pixels_of())
    assert set(text) == {"text_states", "text_embeds"}
    assert set(image) == {"image_states", "image_embeds"}
    for alone in (text, image):
        for name, value in alone.items():
            torch.testing.assert_close(value, both[name], **CLOSE)
    assert set(model.vilta(ids, mask)) == {"text_states"}
    with pytest.raises(ValueError, match="input_ids, pixel_values or both"):
        model()


@torch.no_grad()
def test_a_tuple_where_no_dict_is_wanted():
    model = tiny_vilta()
    ids, mask = tokens_of(6)
    named = model(ids, mask, pixels_of())
    plain = model(ids, mask, pixels_of(), return_dict=False)
    assert isinstance(plain, tuple) and len(plain) == len(named)
    for a, b in zip(plain, named.values(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_padding_is_not_read_where_no_mask_is_given():
    model = tiny_vilta()
    ids, mask = tokens_of(6)
    padded = F.pad(ids, (0, 4), value=model.config.text_config.pad_token_id)
    expected = model(ids, mask, pixels_of())
    found = model(padded, pixel_values=pixels_of())
    torch.testing.assert_close(found.match_logits, expected.match_logits, **CLOSE)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, **CLOSE)
    found = model.get_text_features(padded).pooler_output
    torch.testing.assert_close(found, expected.text_embeds, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("images", "texts"), [(1, 3), (3, 1)])
@torch.no_grad()
def test_a_single_image_or_text_meets_all_of_the_other_kind(kind, images, texts):
    model = tiny_vilta(fusion=kind)
    ids, mask = tokens_of(6, rows=texts)
    pixels = pixels_of(images)
    found = model(ids, mask, pixels, output_attentions=True)
    repeated = [part.expand(3, *part.shape[1:]) for part in (ids, mask, pixels)]
    expected = model(*repeated, output_attentions=True)
    torch.testing.assert_close(found.match_logits, expected.match_logits, **CLOSE)
    for name in ("attentions", "cross_attentions"):
        for a, b in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(a, b, **CLOSE)


def test_other_numbers_of_images_and_texts_are_refused_in_a_line():
    model = tiny_vilta()
    ids, mask = tokens_of(6, rows=3)
    for each in (model, model.vilta):
        with pytest.raises(ValueError, match="2 images and 3 texts cannot be paired") as error:
            each(ids, mask, pixels_of(2))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_are_those_that_were_used(kind):
    model = tiny_vilta(fusion=kind)
    ids, mask = tokens_of(6)
    mask[0, 4:] = 0
    pixels = pixels_of()
    plain = model(ids, mask, pixels)
    told = model(ids, mask, pixels, output_attentions=True)
    torch.testing.assert_close(told.match_logits, plain.match_logits, **CLOSE)
    assert plain.attentions is None and plain.cross_attentions is None
    positions = told.image_states.shape[1]
    assert [w.shape for w in told.attentions] == [(3, 4, 6, 6)] * 2
    assert [w.shape for w in told.cross_attentions] == [(3, 4, 6, positions)] * 2
    for weights in (*told.attentions, *told.cross_attentions):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert all(weights[0, :, :, 4:].max() == 0 for weights in told.attentions)
    # Gradients reach them: what a heat map over the image is made of.
    gradients = torch.autograd.grad(told.match_logits[:, 1].sum(), told.cross_attentions)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@torch.no_grad()
def test_recorded_weights_times_values_are_the_output():
    attention = tiny_vilta().vilta.fusion.text_layers[0].cross
    x, source = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    keys, values = attention.keys_values(source)
    plain = attention(x, keys, values, None)
    with recorded_attention([attention]) as recorded:
        attention(x, keys, values, None)
    (weights,) = recorded
    read = torch.einsum("rhsz,rhzd->rshd", weights, values).flatten(2)
    torch.testing.assert_close(attention.out(read), plain, **CLOSE)
    attention(x, keys, values, None)
    assert len(recorded) == 1  # no longer, after the block


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    model = tiny_vilta()
    model.save_pretrained(folder)
    words = ["a", "red", "ball", "blue", "cube", "this", "is", "photo", "of", "."]
    ViltaProcessor.from_config(model.config, known_tokenizer(words)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ranking", RANKINGS)
@torch.no_grad()
def test_every_image_with_every_text(ranking, released):
    model = ViltaForZeroShotImageClassification.from_pretrained(released, ranking=ranking)
    ids, mask = tokens_of(6, rows=3)
    pixels = pixels_of(2)
    found = model(ids % 10, mask, pixels).logits_per_image
    text, image = model.vilta.encode_text(ids % 10, mask), model.vilta.encode_image(pixels)
    expected = torch.zeros(2, 3)
    for i in range(2):
        for t in range(3):
            if ranking != "matching":
                cosine = model.embed_image(image[i : i + 1]) @ model.embed_text(text, mask)[t]
                expected[i, t] += model.itc_head.scale() * cosine[0]
            if ranking != "contrastive":
                logits = model.match(text, mask, image, Pairs(torch.tensor([t]), torch.tensor([i])))
                expected[i, t] += logits[0, 1] - logits[0, 0]
    torch.testing.assert_close(found, expected, **CLOSE)
    few = model.score_all(image, text, mask, pairs_per_call=4)
    torch.testing.assert_close(few, found, **CLOSE)
    with pytest.raises(ValueError, match="input_ids and pixel_values"):
        model(ids)


def test_zero_shot_pipeline_of_transformers(released):
    classify = pipeline("zero-shot-image-classification", model=str(released))
    picture = Image.effect_noise((48, 40), 90).convert("RGB")
    labels = ["a red ball", "a blue cube", "ball"]
    found = classify(picture, candidate_labels=labels, hypothesis_template="{}")
    model = ViltaForZeroShotImageClassification.from_pretrained(released)
    processor = ViltaProcessor.from_pretrained(released)
    with torch.no_grad():
        batch = processor(images=picture, text=labels, return_tensors="pt")
        scores = model(**batch).logits_per_image[0].softmax(dim=-1).tolist()
    expected = dict(zip(labels, scores, strict=True))
    assert {each["label"]: each["score"] for each in found} == pytest.approx(expected, abs=1e-5)
    assert [each["label"] for each in found] == sorted(labels, key=lambda label: -expected[label])


def test_a_model_without_heads_takes_part(released):
    ids, mask = tokens_of(6)
    with torch.no_grad():
        output = ViltaModel.from_pretrained(released)(ids % 10, mask, pixels_of())
    assert output.pooled is not None and output.match_logits is None
