import itertools

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CAPTIONS, TEXT, VISION, tiny_tokenizer, tokens_of
from transformers import AutoTokenizer, BertModel, GPT2Config, GPT2LMHeadModel

from vilta.model import ViltaForPreTraining
from vilta.model.encoders import pixel_statistics
from vilta.model.language_model import (
    continue_language_model,
    load_tokenizer,
    new_language_model,
    new_tokenizer,
)


def test_new_tokenizer_knows_its_words_and_is_read_back(tmp_path):
    tokenizer = new_tokenizer(CAPTIONS * 2, 120)
    assert len(tokenizer) <= 120
    ids = tokenizer("The LARGE Green cube")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the large green cube"
    tokenizer.save_pretrained(tmp_path)
    for again in (load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)):
        assert again(CAPTIONS)["input_ids"] == tokenizer(CAPTIONS)["input_ids"]
        assert again.mask_token_id == tokenizer.mask_token_id
    assert set(tokenizer(["a", "b"])) == {"input_ids", "attention_mask"}


def test_same_captions_give_the_same_tokenizer():
    words = ["".join(letters) for letters in itertools.permutations("abcdef", 4)]  # many ties
    first, *others = (new_tokenizer(words * 2, 200).get_vocab() for _ in range(4))
    assert len(first) == 200
    assert all(each == first for each in others)


def test_new_language_model_serves_as_text_encoder(tmp_path):
    model = new_language_model(90, width=32, layers=1, heads=4, dropout=0.0, positions=20)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    whole = ViltaForPreTraining.from_encoders(
        VISION["vit"],
        str(tmp_path),
        hidden_size=32,
        num_attention_heads=4,
        fusion_layers=1,
        max_text_tokens=20,
    )
    ids, mask = tokens_of(5, words=90)
    with torch.no_grad():
        torch.testing.assert_close(
            whole.vilta.text.eval()(ids, mask).logits, model.eval()(ids, mask).logits
        )


def test_continuing_without_a_head_starts_one_that_is_tied(tmp_path):
    BertModel(TEXT["bert"]).save_pretrained(tmp_path)
    model = continue_language_model(str(tmp_path))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    saved = load_file(tmp_path / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.get_parameter(f"bert.{name}"), saved[name])


def test_continuing_without_a_weight_of_the_encoder_is_refused(tmp_path):
    BertModel(TEXT["bert"]).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layer\.1\.output\.dense\.weight") as error:
        continue_language_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_sources_that_cannot_serve(tmp_path):
    for load in (load_tokenizer, continue_language_model):
        with pytest.raises(ValueError, match="nowhere") as error:
            load(str(tmp_path / "nowhere"))
        assert "\n" not in str(error.value)
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="cannot load a language model") as error:
        continue_language_model(str(tmp_path))
    assert "\n" not in str(error.value)


def test_pixel_statistics_are_those_of_the_encoder(tmp_path):
    assert pixel_statistics(str(tmp_path)) == ([0.5] * 3, [0.5] * 3)
    content = '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": 224}'
    (tmp_path / "preprocessor_config.json").write_text(content)
    assert pixel_statistics(str(tmp_path)) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_any_tokenizer_kind_is_read_back(tmp_path):
    for kind in ("byte-bpe", "unigram"):
        tokenizer = tiny_tokenizer(kind)
        tokenizer.save_pretrained(tmp_path / kind)
        again = load_tokenizer(str(tmp_path / kind))
        assert again(CAPTIONS)["input_ids"] == tokenizer(CAPTIONS)["input_ids"]
