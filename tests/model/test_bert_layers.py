"""A text encoder whose upper layers are the fusion, against transformers' own whole model."""

import copy

import pytest
import torch
import transformers as t
from tiny_models import SIZE, TEXT, VISION, WORDS, pixels_of, scramble, tokens_of

from vilta.model import ViltaConfig, ViltaForPreTraining

LIKE_BERT = {
    "bert": t.BertConfig(**SIZE | {"num_hidden_layers": 3}, vocab_size=WORDS),
    "roberta": t.RobertaConfig(**SIZE | {"num_hidden_layers": 3}, vocab_size=WORDS),
    "electra": t.ElectraConfig(
        **SIZE | {"num_hidden_layers": 3}, vocab_size=WORDS, embedding_size=16
    ),
}
LIKE_BERT |= {
    act: t.BertConfig(**SIZE | {"num_hidden_layers": 3}, vocab_size=WORDS, hidden_act=act)
    for act in ("relu", "gelu_new")
}


def whole_and_split(name, folder, count=2, **settings):
    """A masked language model from a folder, and a model whose fusion are its upper layers."""
    whole = scramble(t.AutoModelForMaskedLM.from_config(copy.deepcopy(LIKE_BERT[name])))
    whole.save_pretrained(folder)
    settings = dict(max_text_tokens=24, contrastive_width=16, image_size=32) | settings
    model = ViltaForPreTraining.from_encoders(
        VISION["vit"], str(folder), fusion="text-layers", fusion_layers=count, **settings
    )
    return whole, model.eval()


@pytest.mark.parametrize("name", LIKE_BERT)
@pytest.mark.parametrize("count", [1, 2])
def test_without_an_image_the_words_are_those_of_the_whole_language_model(name, count, tmp_path):
    whole, model = whole_and_split(name, tmp_path, count)
    assert model.config.text_config.num_hidden_layers == 3 - count
    ids, mask = tokens_of(7)
    mask[1, 4:] = 0
    at = mask.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        lower = model.vilta.encode_text(ids, mask)
        alone = model.predict_words_from_text(model.vilta.read_alone(lower, mask, at))
        expected = whole(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(alone, expected.logits.flatten(0, 1)[at], atol=1e-5, rtol=1e-5)


def test_with_an_image_each_layer_reads_it_between_its_two_halves(tmp_path):
    whole, model = whole_and_split("bert", tmp_path, word_head="language_model")
    for layer in model.vilta.fusion.text_layers:
        scramble(layer.cross), scramble(layer.cross_norm)
    ids, mask = tokens_of(6)
    pixels = pixels_of()
    with torch.no_grad():
        states = model.vilta.encode_text(ids, mask)
        image = model.vilta.image_projection(model.vilta.encode_image(pixels))
        for layer, taken in zip(
            model.vilta.fusion.text_layers, whole.bert.encoder.layer[1:], strict=True
        ):
            states = taken.attention(states)[0]
            read = layer.cross(layer.cross_norm(states), *layer.cross.keys_values(image), None)
            states = states + read
            states = taken.output(taken.intermediate(states), states)
        out = model(ids, mask, pixels)
        words = model.predict_words(out.last_hidden_state[0], out.text_states[0])
    torch.testing.assert_close(out.last_hidden_state, states, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(words, whole.cls(states)[0], atol=1e-4, rtol=1e-4)


def test_the_words_begin_near_those_of_the_text_alone(tmp_path):
    """What cross-attention adds is small at first: most words stay the language model's first."""
    whole, model = whole_and_split(
        "bert", tmp_path, initializer_range=0.02, word_head="language_model"
    )
    ids, mask = tokens_of(9, rows=16)
    with torch.no_grad():
        out = model(ids, mask, pixels_of(16))
        words = model.predict_words(
            out.last_hidden_state.flatten(0, 1), out.text_states.flatten(0, 1)
        )
        alone = whole(input_ids=ids, attention_mask=mask).logits.flatten(0, 1)
    assert (words.argmax(1) == alone.argmax(1)).float().mean() > 0.9
    assert not torch.allclose(words, alone, atol=1e-6)


def test_it_is_saved_and_loaded_again(tmp_path):
    _, model = whole_and_split("roberta", tmp_path / "text", word_head="language_model")
    model.save_pretrained(tmp_path / "model")
    again = ViltaForPreTraining.from_pretrained(tmp_path / "model").eval()
    ids, mask = tokens_of(5)
    with torch.no_grad():
        before, after = (m(ids, mask, pixels_of()) for m in (model, again))
    assert torch.equal(before.match_logits, after.match_logits)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)


ROTATED = t.RoFormerConfig(**SIZE, vocab_size=WORDS, embedding_size=32)
"""Layers of BERT's names whose encoder rotates what they compare."""


@pytest.mark.parametrize(
    "text", [*(TEXT[n] for n in ("distilbert", "modernbert", "mpnet")), ROTATED]
)
def test_other_layers_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"not those of BERT.*--model.fusion cross-attention"):
        ViltaForPreTraining.from_encoders(
            VISION["vit"], text, fusion="text-layers", fusion_layers=1, max_text_tokens=8
        )


def test_layers_that_are_named_like_berts_but_work_otherwise_are_refused():
    config = copy.deepcopy(TEXT["bert"])
    config.is_decoder = True
    with pytest.raises(ValueError, match="do not work as those of BERT"):
        ViltaForPreTraining.from_encoders(
            VISION["vit"], config, fusion="text-layers", fusion_layers=1, max_text_tokens=24
        )


@pytest.mark.parametrize(
    ("layers", "hint"), [(2, "--model.fusion-layers 1 or"), (1, "give --model.fusion ")]
)
def test_a_fusion_that_would_take_all_layers_is_refused(layers, hint):
    config = t.BertConfig(**SIZE | {"num_hidden_layers": layers}, vocab_size=WORDS)
    with pytest.raises(ValueError, match=hint):
        ViltaForPreTraining.from_encoders(
            VISION["vit"], config, fusion="text-layers", fusion_layers=2, image_size=32
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(hidden_size=64), "width and heads"),
        (dict(fusion_input="contrastive", contrastive_width=32), "separate"),
        (dict(text_config=TEXT["distilbert"]), "BERT"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(settings, message):
    fitting = dict(hidden_size=32, num_attention_heads=4, text_config=TEXT["bert"])
    with pytest.raises(ValueError, match=message):
        ViltaConfig(fusion="text-layers", **fitting | settings)
