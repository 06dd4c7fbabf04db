import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import TEXT, VISION, pixels_of, tiny_tokenizer, tiny_vilta, tokens_of
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

import vilta
from vilta.model import ViltaForPreTraining, ViltaModel, ViltaProcessor
from vilta.model.encoders import load_image_encoder, load_text_encoder
from vilta.model.language_model import continue_language_model


def assert_bit_for_bit(a, b):
    assert type(a) is type(b)
    first, second = dict(a.state_dict()), dict(b.state_dict())
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name
    ids, mask = tokens_of(6)
    with torch.no_grad():
        left, right = a.eval()(ids, mask, pixels_of()), b.eval()(ids, mask, pixels_of())
    assert torch.equal(left.pooled, right.pooled)


def written_config(folder):
    """What config.json says, but for the nested dtype, which transformers adds on loading."""
    content = json.loads((folder / "config.json").read_text())
    for encoder in (content["vision_config"], content["text_config"]):
        encoder.pop("dtype")
    return content


@pytest.mark.parametrize(
    ("vision", "text"), [*((v, "bert") for v in VISION), *(("vit", t) for t in TEXT)]
)
def test_round_trip(vision, text, tmp_path):
    settings = {"image_mean": [0.1, 0.2, 0.3], "pooling": "mean", "dropout": 0.25}
    model = tiny_vilta(vision, text, word_head="language_model", **settings)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    again = ViltaForPreTraining.from_pretrained(tmp_path)
    assert_bit_for_bit(model, again)
    for name in (
        "image_mean",
        "pooling",
        "dropout",
        "word_head",
        "fusion_layers",
        "tie_word_embeddings",
    ):
        assert getattr(again.config, name) == getattr(model.config, name)
    assert type(again.config.text_config) is type(model.config.text_config)
    again.save_pretrained(tmp_path / "again")
    name = "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert written_config(tmp_path / "again") == written_config(tmp_path)


@pytest.mark.parametrize("text", TEXT)
def test_tied_weights_stay_tied(text, tmp_path):
    model = tiny_vilta(text=text)
    model.save_pretrained(tmp_path)
    for each in (model, ViltaForPreTraining.from_pretrained(tmp_path)):
        language = each.vilta.text
        inside = language.get_input_embeddings().weight
        assert language.get_output_embeddings().weight is inside
        with torch.no_grad():
            states = torch.ones(1, 32), torch.ones(1, each.config.text_config.hidden_size)
            before = each.predict_words(*states)
            inside[17] += 1.0
            after = each.predict_words(*states)
        assert (before - after).abs().argmax() == 17


def test_untied_weights_stay_apart(tmp_path):
    config = TEXT["bert"].to_dict() | {"tie_word_embeddings": False}
    settings = dict(hidden_size=32, num_attention_heads=4, fusion_layers=1, max_text_tokens=40)
    untied = type(TEXT["bert"])(**config)
    model = ViltaForPreTraining.from_encoders(VISION["vit"], untied, **settings)
    model.save_pretrained(tmp_path)
    again = ViltaForPreTraining.from_pretrained(tmp_path)
    assert_bit_for_bit(model, again)
    language = again.vilta.text
    assert language.get_output_embeddings().weight is not language.get_input_embeddings().weight


def test_half_precision_round_trip(tmp_path):
    model = tiny_vilta().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert_bit_for_bit(model, ViltaForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16))


def test_auto_classes(tmp_path):
    model = tiny_vilta()
    model.save_pretrained(tmp_path / "heads")
    model.vilta.save_pretrained(tmp_path / "base")
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "heads"), vilta.ViltaConfig)
    assert_bit_for_bit(AutoModelForPreTraining.from_pretrained(tmp_path / "heads"), model)
    assert_bit_for_bit(AutoModel.from_pretrained(tmp_path / "base"), model.vilta)
    # The heads are left behind knowingly; nothing else may be.
    assert_bit_for_bit(AutoModel.from_pretrained(tmp_path / "heads"), model.vilta)
    assert isinstance(AutoModel.from_config(model.config), ViltaModel)


def edit(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


LOST = [
    "vilta.fusion.text_layers.1.mlp.0.bias",
    "itm_head.out.weight",
    "itc_head.log_scale",
    "vilta.vision.layernorm.weight",
    "vilta.text.cls.predictions.transform.dense.weight",
    "vilta.pixel_mean",
]


@pytest.mark.parametrize("name", LOST)
def test_missing_weight_is_named(name, tmp_path):
    tiny_vilta().save_pretrained(tmp_path)
    edit(tmp_path, lambda weights: weights.pop(name))
    for loader in (ViltaForPreTraining, AutoModelForPreTraining):
        with pytest.raises(ValueError, match=name) as error:
            loader.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["vilta.fusion.text_layers.9.mlp.0.bias", "spare", "mlm_head.pooler.weight"]
)
def test_leftover_weight_is_named(name, tmp_path):
    tiny_vilta(text="roberta").save_pretrained(tmp_path)
    edit(tmp_path, lambda weights: weights.update({name: torch.zeros(2)}))
    with pytest.raises(ValueError, match=name):
        ViltaForPreTraining.from_pretrained(tmp_path)


def test_a_model_from_before_there_was_a_choice_has_its_own_word_head(tmp_path):
    model = tiny_vilta()
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content.pop("word_head", None)
    (tmp_path / "config.json").write_text(json.dumps(content))
    again = ViltaForPreTraining.from_pretrained(tmp_path)
    assert again.config.word_head == "separate"
    assert_bit_for_bit(model, again)


def test_leftover_weight_is_named_by_the_base_model_too(tmp_path):
    tiny_vilta().save_pretrained(tmp_path)
    edit(tmp_path, lambda weights: weights.update({"qa_head.bias": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"qa_head\.bias"):
        ViltaModel.from_pretrained(tmp_path)


def test_weight_of_another_shape_is_named(tmp_path):
    tiny_vilta().save_pretrained(tmp_path)
    edit(tmp_path, lambda weights: weights.update({"itm_head.out.bias": torch.zeros(5)}))
    with pytest.raises(ValueError, match=r"itm_head\.out\.bias") as error:
        ViltaForPreTraining.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


DAMAGE = {
    "cut short": lambda whole: whole[: len(whole) // 2],
    "without content": lambda whole: bytes(len(whole)),
    "something else": lambda whole: b"<html>not found</html>" * 50,
    "empty": lambda whole: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_an_error_that_names_their_folder(damage, tmp_path):
    model = tiny_vilta()
    parts = {
        "whole": (model, ViltaForPreTraining.from_pretrained),
        "text": (model.vilta.text, load_text_encoder),
        "continued": (model.vilta.text, continue_language_model),
        "vision": (model.vilta.vision, load_image_encoder),
    }
    for name, (part, load) in parts.items():
        part.save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
        with pytest.raises(ValueError, match=r"are damaged; copy or download them again") as error:
            load(str(tmp_path / name))
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_pickle_is_no_reason_to_read_it_unprotected(tmp_path):
    model = tiny_vilta().vilta.text
    model.config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"garbage" * 100)
    with pytest.raises(ValueError, match="are damaged") as error:
        load_text_encoder(str(tmp_path))
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_config_json_alone_rebuilds_the_architecture(tmp_path):
    model = tiny_vilta("swin", "distilbert", fusion="cross-attention", fusion_layers=1)
    model.config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["model_type"] == "vilta"
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.vision_config.model_type == "swin"
    assert config.text_config.model_type == "distilbert"
    again = ViltaForPreTraining(config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_processor_round_trip(kind, tmp_path):
    config = tiny_vilta(image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1]).config
    processor = ViltaProcessor.from_config(config, tiny_tokenizer(kind))
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    picture = Image.effect_noise((57, 41), 90).convert("RGB")
    texts = ["a small red ball", "Two dogs, and an unbelievable skateboarder " * 5]
    expected = None
    for each in (
        processor,
        ViltaProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    ):
        assert isinstance(each, ViltaProcessor)
        batch = each(
            images=[picture], text=texts, padding=True, truncation=True, return_tensors="pt"
        )
        assert batch["pixel_values"].shape == (1, 3, 32, 32)
        assert batch["input_ids"].shape[1] == config.max_text_tokens
        if expected is not None:
            assert torch.equal(batch["pixel_values"], expected["pixel_values"])
            assert torch.equal(batch["input_ids"], expected["input_ids"])
        expected = batch


def test_processor_normalises_as_the_model_does():
    model = tiny_vilta(image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1])
    processor = ViltaProcessor.from_config(model.config, tiny_tokenizer("wordpiece"))
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    floats = processor(images=[picture], text=["ball"], return_tensors="pt")["pixel_values"]
    raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(32, 32, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            model.vilta.encode_image(floats),
            model.vilta.encode_image(raw.permute(2, 0, 1)[None].contiguous()),
            atol=1e-5,
            rtol=1e-5,
        )


def test_processor_s_batch_goes_into_the_model():
    model = tiny_vilta()
    processor = ViltaProcessor.from_config(model.config, tiny_tokenizer("wordpiece", size=100))
    picture = Image.new("RGB", (40, 60), (200, 30, 30))
    batch = processor(images=[picture], text=["a red ball"], return_tensors="pt")
    assert model(**batch).match_logits.shape == (1, 2)
