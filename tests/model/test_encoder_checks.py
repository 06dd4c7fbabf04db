"""Encoders that would silently give wrong metrics are told at load; odd ones that can serve do."""

import copy
import json

import pytest
import torch
import transformers as t
from tiny_models import SIZE, TEXT, VISION, WORDS, scramble, tokens_of

from vilta.model import ViltaForPreTraining
from vilta.model.encoder_checks import check_text_encoder
from vilta.model.encoders import load_text_encoder
from vilta.model.language_model import continue_language_model

SETTINGS = dict(
    hidden_size=32,
    num_attention_heads=4,
    fusion_layers=1,
    contrastive_width=8,
    max_text_tokens=16,
    image_size=32,
)
TEXT_SIZE = SIZE | {"vocab_size": WORDS, "max_position_embeddings": 40}
MOVED_BY_PADDING = {
    "mobilebert": t.MobileBertConfig(**TEXT_SIZE, embedding_size=32, intra_bottleneck_size=32),
    "convbert": t.ConvBertConfig(**TEXT_SIZE, embedding_size=32),
    "funnel": t.FunnelConfig(
        vocab_size=WORDS, block_sizes=[1, 1], d_model=32, n_head=4, d_head=8, d_inner=64
    ),
    "nystromformer": t.NystromformerConfig(**TEXT_SIZE, num_landmarks=4, segment_means_seq_len=16),
    "yoso": t.YosoConfig(**TEXT_SIZE),
    "reformer": t.ReformerConfig(is_decoder=False, vocab_size=WORDS),
}
CAN_SERVE = {
    "deberta-v2": t.DebertaV2Config(**TEXT_SIZE),
    "deberta-v2, its authors' head": t.DebertaV2Config(**TEXT_SIZE, legacy=False),
    "deberta, its authors' head": t.DebertaConfig(**TEXT_SIZE, legacy=False),
    "longformer": t.LongformerConfig(**TEXT_SIZE | {"max_position_embeddings": 80},
                                     attention_window=8),
    "luke": t.LukeConfig(**TEXT_SIZE, entity_vocab_size=11, entity_emb_size=16),
    "electra": t.ElectraConfig(**TEXT_SIZE, embedding_size=16),
    "albert": t.AlbertConfig(**TEXT_SIZE, embedding_size=16),
}  # fmt: skip


def from_text(source):
    return ViltaForPreTraining.from_encoders(VISION["vit"], source, **SETTINGS)


def saved(config, folder, dtype=torch.float32):
    model = scramble(t.AutoModelForMaskedLM.from_config(copy.deepcopy(config)))
    model.to(dtype).save_pretrained(folder)
    return model


def test_an_image_encoder_that_hides_patches_at_random_is_refused():
    config = t.ViTMAEConfig(**SIZE, image_size=32, patch_size=8)
    with pytest.raises(ValueError, match="other states for the same image each time") as error:
        ViltaForPreTraining.from_encoders(config, TEXT["bert"], **SETTINGS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MOVED_BY_PADDING)
def test_a_text_encoder_whose_states_move_with_padding_is_refused(kind, tmp_path):
    saved(MOVED_BY_PADDING[kind], tmp_path)
    with pytest.raises(ValueError, match="take another") as error:
        from_text(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", CAN_SERVE)
def test_text_encoders_with_heads_of_their_own_serve(kind, tmp_path):
    source = saved(CAN_SERVE[kind], tmp_path)
    model = from_text(str(tmp_path)).eval()
    ids, mask = tokens_of(9)
    mask[1, 6:] = 0
    with torch.no_grad():
        expected = source(input_ids=ids, attention_mask=mask).logits[1, :6]
        states = model.vilta.encode_text(ids, mask)[1, :6]
        torch.testing.assert_close(model.predict_words_from_text(states), expected)
    model.train().predict_words_from_text(model.vilta.encode_text(ids, mask)[0]).sum().backward()
    model.save_pretrained(tmp_path / "whole")
    again = ViltaForPreTraining.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        torch.testing.assert_close(again.vilta.encode_text(ids, mask)[1, :6], states)


@pytest.mark.parametrize("load", [load_text_encoder, continue_language_model])
@pytest.mark.parametrize("kind", ["deberta-v2", "deberta"])
def test_deberta_as_it_is_released(tmp_path, kind, load):
    """The head is that of its authors; the configuration does not say so."""
    source = saved(CAN_SERVE[f"{kind}, its authors' head"], tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["legacy"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    model = load(str(tmp_path)).eval()
    ids, mask = tokens_of(9)
    with torch.no_grad():
        expected = source(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)


def test_deberta_without_any_head_is_continued_and_no_text_encoder(tmp_path):
    saved(CAN_SERVE["deberta-v2"], tmp_path / "whole").deberta.save_pretrained(tmp_path)
    model = continue_language_model(str(tmp_path)).eval()
    ids, mask = tokens_of(9)
    assert model(input_ids=ids, attention_mask=mask).logits.isfinite().all()
    with pytest.raises(ValueError, match=r"lacks \d+ weights of DebertaV2ForMaskedLM"):
        load_text_encoder(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_encoders_in_half_precision_are_trained_in_float32(tmp_path, dtype):
    saved(TEXT["bert"], tmp_path / "text", dtype)
    image = scramble(t.AutoModel.from_config(copy.deepcopy(VISION["vit"])))
    image.to(dtype).save_pretrained(tmp_path / "image")
    model = ViltaForPreTraining.from_encoders(
        str(tmp_path / "image"), str(tmp_path / "text"), **SETTINGS
    )
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    model.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"
    assert ViltaForPreTraining.from_pretrained(tmp_path / "run").vilta.text.dtype == torch.float32
    half = ViltaForPreTraining.from_pretrained(tmp_path / "run", dtype=dtype)
    assert {weight.dtype for weight in half.parameters()} == {dtype}
    half.save_pretrained(tmp_path / "half")  # a run may be released so
    whole = ViltaForPreTraining.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert {weight.dtype for weight in whole.parameters()} == {torch.float32}


def test_what_is_drawn_later_does_not_depend_on_the_check():
    model = load_text_encoder(TEXT["bert"])
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_text_encoder(model, 12)
    assert torch.equal(torch.rand(3), expected)
