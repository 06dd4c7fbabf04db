import copy

import pytest
import torch
import transformers as t
from tiny_models import (
    SIZE,
    TEXT,
    VISION,
    WORDS,
    pixels_of,
    scramble,
    tiny_config,
    tokens_of,
    two_towers,
)

from vilta.model import ViltaConfig, ViltaForPreTraining
from vilta.model.encoder_checks import check_image_encoder, check_text_encoder
from vilta.model.encoders import (
    check_language_model,
    grid_positions,
    image_states,
    language_model_logits,
    load_image_encoder,
    load_text_encoder,
    text_states,
)

SETTINGS = dict(
    hidden_size=32,
    num_attention_heads=4,
    fusion_layers=1,
    contrastive_width=8,
    max_text_tokens=16,
)


def image_folder(kind, path):
    """Write a random image encoder; return it with the tower whose features count."""
    if kind in ("clip", "siglip"):
        model = two_towers(kind)
        model.save_pretrained(path)
        return model.vision_model
    model = scramble(t.AutoModel.from_config(VISION[kind]))
    model.save_pretrained(path)
    return model


def text_folder(kind, path):
    model = scramble(t.AutoModelForMaskedLM.from_config(TEXT[kind]))
    model.save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bert")
    text_folder("bert", path)
    return str(path)


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    image_folder("vit", path)
    return str(path)


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("kind", VISION)
def test_image_tower_from_folder(kind, size, tmp_path, bert_folder):
    tower = image_folder(kind, tmp_path)
    model = ViltaForPreTraining.from_encoders(
        str(tmp_path), bert_folder, image_size=size, **SETTINGS
    ).eval()
    pixels = torch.randn(2, 3, size, size)
    options = (
        {"interpolate_pos_encoding": True} if kind in ("clip", "siglip", "vit", "swin") else {}
    )
    with torch.no_grad():
        expected = tower(pixels, **options).last_hidden_state
        if expected.dim() == 4:
            grid = grid_positions(*expected.shape[2:], expected.shape[1], torch.device("cpu"))
            expected = expected.flatten(2).transpose(1, 2) + grid
        torch.testing.assert_close(image_states(model.vilta.vision, pixels), expected)
        out = model(*tokens_of(6, rows=2), pixels)
    assert out.match_logits.shape == (2, 2)
    assert torch.isfinite(out.match_logits).all()


def test_a_saved_model_does_not_tell_where_its_encoders_were(tmp_path, vit_folder, bert_folder):
    ViltaForPreTraining.from_encoders(vit_folder, bert_folder, **SETTINGS).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert vit_folder not in text and bert_folder not in text


@pytest.mark.parametrize("kind", TEXT)
def test_text_tower_and_its_head_from_folder(kind, tmp_path, vit_folder):
    source = text_folder(kind, tmp_path)
    model = ViltaForPreTraining.from_encoders(vit_folder, str(tmp_path), **SETTINGS).eval()
    ids, mask = tokens_of(9)
    mask[1, 6:] = 0
    picked = torch.tensor([0, 4, 9 + 2, 18 + 8])
    with torch.no_grad():
        full = source(input_ids=ids, attention_mask=mask).logits
        states = model.vilta.encode_text(ids, mask)
        logits = model.predict_words_from_text(states.flatten(0, 1)[picked])
    torch.testing.assert_close(logits, full.flatten(0, 1)[picked], atol=1e-5, rtol=1e-5)


def test_head_on_picked_states_trains_the_model_itself(tmp_path):
    model = t.AutoModelForMaskedLM.from_config(TEXT["bert"])
    ids, mask = tokens_of(5)
    picked = text_states(model, ids, mask).flatten(0, 1)[torch.tensor([1, 7])]
    language_model_logits(model, picked).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert type(model.bert).__name__ == "BertModel"


def test_encoders_from_configs():
    torch.manual_seed(3)
    model = ViltaForPreTraining.from_encoders(VISION["vit"], TEXT["bert"], **SETTINGS)
    assert model.config.vision_config.hidden_size == 32
    assert model.config.text_config.vocab_size == WORDS


def test_position_waves_tell_every_cell_apart_and_know_places_at_any_size():
    small = grid_positions(5, 7, 32, torch.device("cpu"))
    apart = torch.cdist(small, small) + torch.eye(35)
    assert small.shape == (35, 32)
    assert apart.min() > 0.1
    large = grid_positions(9, 13, 32, torch.device("cpu")).view(9, 13, 32)
    torch.testing.assert_close(large[::2, ::2].flatten(0, 1), small)


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_text_checkpoint_without_head_names_a_missing_weight(tmp_path, vit_folder):
    t.BertModel(TEXT["bert"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cls\.predictions") as error:
        ViltaForPreTraining.from_encoders(vit_folder, str(tmp_path))
    one_line(error, str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        t.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=WORDS),
        t.FNetConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=64, vocab_size=WORDS),
        t.BartConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            vocab_size=WORDS,
        ),
        VISION["vit"],
    ],
    ids=["gpt2", "fnet", "bart", "vit"],
)
def test_text_encoder_that_cannot_serve(config):
    with pytest.raises(ValueError) as error:
        load_text_encoder(config)
    one_line(error)


@pytest.mark.parametrize(
    "config",
    [
        TEXT["bert"],
        t.Wav2Vec2Config(**SIZE, conv_dim=(8,), conv_stride=(5,), conv_kernel=(10,)),
        t.VideoMAEConfig(**SIZE, image_size=32, patch_size=8, num_frames=2),
    ],
    ids=["bert", "wav2vec2", "videomae"],
)
def test_image_encoder_that_cannot_serve(config):
    with pytest.raises(ValueError) as error:
        ViltaForPreTraining.from_encoders(config, TEXT["bert"], **SETTINGS, image_size=32)
    one_line(error)


@pytest.mark.parametrize(("kind", "most"), [("bert", 40), ("roberta", 38), ("mpnet", 38)])
def test_captions_longer_than_the_text_encoder_reads(kind, most):
    """RoBERTa and MPNet count their positions from two."""
    said = f"cannot read 41 tokens; give --data.max-text-tokens {most} or lower$"
    settings = SETTINGS | {"max_text_tokens": 41, "image_size": 32}
    with pytest.raises(ValueError, match=said) as error:
        ViltaForPreTraining.from_encoders(VISION["vit"], TEXT[kind], **settings)
    one_line(error)
    settings["max_text_tokens"] = most
    ViltaForPreTraining.from_encoders(VISION["vit"], TEXT[kind], **settings)


def test_sources_that_are_none(tmp_path, bert_folder):
    with pytest.raises(ValueError, match="nowhere") as error:
        load_image_encoder(str(tmp_path / "nowhere"))
    one_line(error)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="weights") as error:
        load_image_encoder(str(tmp_path))
    one_line(error, str(tmp_path))


def test_config_that_makes_no_sense():
    with pytest.raises(ValueError, match="co-attention, cross-attention"):
        tiny_config(fusion="sum")
    with pytest.raises(ValueError, match="first, mean"):
        tiny_config(pooling="max")
    with pytest.raises(ValueError, match="multiple"):
        tiny_config(num_attention_heads=5)
    with pytest.raises(ValueError, match="needs a `model_type`"):
        ViltaConfig(vision_config={"hidden_size": 32})


class Centred(t.ViTModel):
    """An encoder that compares the images of a batch."""

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.last_hidden_state = found.last_hidden_state - found.last_hidden_state.mean(0)
        return found


@pytest.mark.parametrize(
    ("encoder", "problem"),
    [
        (t.MobileViTConfig(image_size=32), r"states of shape .* where \[1, tokens, 240\] was"),
        (t.MobileNetV2Config(image_size=32), "neither `hidden_size` nor `hidden_sizes`"),
        (t.BlipVisionConfig(), "'blip_vision_model' is not an encoder that AutoModel supports"),
        (Centred(VISION["vit"]), "other states for an image alone than beside another one"),
    ],
    ids=["mobilevit", "mobilenet", "blip", "centred"],
)
def test_image_encoders_whose_states_cannot_be_used(encoder, problem):
    with pytest.raises(ValueError, match=problem) as error:
        model = load_image_encoder(encoder) if isinstance(encoder, t.PreTrainedConfig) else encoder
        check_image_encoder(model, 32)
    one_line(error)


class HeadOfTheWholeText(t.BertForMaskedLM):
    """Its head subtracts the mean over the text, which picked states do not have."""

    def forward(self, *args, **kwargs):
        found = super().forward(*args, **kwargs)
        found.logits = found.logits - found.logits.mean(1, keepdim=True)
        return found


def test_text_encoders_whose_head_cannot_be_applied():
    with pytest.raises(ValueError, match="cannot be applied to picked states") as error:
        check_text_encoder(HeadOfTheWholeText(TEXT["bert"]), 8)
    one_line(error)
    model = t.BertForMaskedLM(TEXT["bert"])
    model.base_model_prefix = "elsewhere"
    with pytest.raises(ValueError, match="keeps no separate encoder under `elsewhere`") as error:
        check_language_model(model)
    one_line(error)


def test_what_a_head_is_given_can_be_copied():
    """It answers None for every output that a head may ask for, but not for Python's own names."""
    kept = []
    model = t.BertForMaskedLM(TEXT["bert"])

    class Noted(type(model)):
        def forward(self, *args, **kwargs):
            kept.append(self.bert(*args, **kwargs))
            return super().forward(*args, **kwargs)

    model.__class__ = Noted
    states = torch.rand(2, 32)
    language_model_logits(model, states)
    assert kept[0].global_attentions is None
    assert torch.equal(copy.copy(kept[0]).last_hidden_state, kept[0].last_hidden_state)


@pytest.mark.parametrize("size", [(4, 32), (32, 7)])
def test_image_smaller_than_a_patch(size):
    model = ViltaForPreTraining(tiny_config())
    with pytest.raises(ValueError, match=r"smaller than a patch \(8\)"):
        model(*tokens_of(4, rows=1), torch.zeros(1, 3, *size))


@pytest.mark.parametrize("kind", sorted(VISION.keys() - {"resnet"}))  # that takes any size
def test_image_size_that_an_encoder_cannot_take_says_what_to_change(kind):
    smallest = getattr(VISION[kind], "patch_size", None)
    message = rf"2x2 pixels are smaller than a patch \({smallest}\)" if smallest else "2x2 pixels"
    with pytest.raises(ValueError, match=rf"{message}.*; use .*--data\.image-size") as error:
        check_image_encoder(load_image_encoder(VISION[kind]), 2)
    one_line(error)


def test_uint8_pixels_are_normalised_by_the_model():
    model = ViltaForPreTraining(tiny_config(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]))
    pixels = pixels_of(2)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    by_hand = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        got, expected = model.eval().vilta.encode_image(pixels), model.vilta.encode_image(by_hand)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
