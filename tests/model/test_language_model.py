import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CAPTIONS, TEXT, VISION, tiny_config, tiny_tokenizer, tokens_of
from transformers import (
    AutoTokenizer,
    BertModel,
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    GPT2Config,
    GPT2LMHeadModel,
    LukeTokenizer,
)

from vilta.data.collate import PairCollator
from vilta.data.text import TextDataset
from vilta.model import ViltaForPreTraining, ViltaProcessor
from vilta.model.language_model import (
    continue_language_model,
    forget_calls,
    load_tokenizer,
    new_language_model,
    new_tokenizer,
)
from vilta.model.pixel_statistics import pixel_statistics
from vilta.objectives.vocabulary import hash_of_words, read_vocabulary, require_same_words


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


def rewritten(folder, **changes):
    """A tokenizer with other numbers for its words, or another word for what it does not know."""
    new_tokenizer(CAPTIONS * 2, 120).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= changes.pop("numbers", {})
    content["model"] |= changes
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return load_tokenizer(str(folder))


@pytest.mark.parametrize(
    "changes",
    [{"numbers": {"green": -1}}, {"numbers": {"green": 2**40}}, {"unk_token": "nowhere"},
     {"type": "Nothing"}, {"vocab": {}}],
)  # fmt: skip
def test_damaged_tokenizers_are_one_line(tmp_path, changes):
    with pytest.raises(ValueError, match="cannot read a tokenizer from") as error:
        rewritten(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_gaps_in_the_numbers_of_words(tmp_path):
    """The word beyond the gap counts: for the model's size, and for what identifies the words."""
    plain = new_tokenizer(CAPTIONS * 2, 120)
    tokenizer = rewritten(tmp_path, numbers={"green": 150})
    with pytest.raises(ValueError, match="has 151 words but the model has embeddings for 150"):
        read_vocabulary(tokenizer, 150)
    words = read_vocabulary(tokenizer, 160)
    gap = plain.convert_tokens_to_ids("green")
    assert words.content[150] and not words.content[gap] and gap not in words.regular
    beyond = rewritten(tmp_path, numbers={"green": 151})
    assert len({hash_of_words(t) for t in (plain, tokenizer, beyond)}) == 3
    with pytest.raises(ValueError, match="different vocabularies"):
        require_same_words(tokenizer, beyond)


def test_a_tokenizer_without_padding_is_refused(tmp_path):
    new_tokenizer(CAPTIONS * 2, 120).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="without a padding token"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_whose_unknown_token_is_not_a_word_is_refused(tmp_path):
    new_tokenizer(CAPTIONS * 2, 120).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"unk_token": ""}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unknown token that is not one of its words"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_word_borders_is_refused(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no fast tokenizer"):
        load_tokenizer(str(tmp_path))


def test_lukes_tokenizer_gives_words_and_no_entities(tmp_path):
    """Its fast form knows entities, and models of this package read none."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abdgo", "Ġ", "do", "dog", "Ġdog"]
    entities = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}
    LukeTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[("d", "o"), ("do", "g"), ("Ġ", "dog")],
        entity_vocab=entities,
    ).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    batch = PairCollator(tokenizer, 8, None, 0)([TextDataset(["dog bad"], "x")[0, 0]])
    assert tokenizer.decode(batch.input_ids[0], skip_special_tokens=True).strip() == "dog bad"
    assert batch.word_ids[0].tolist() == [-1, 0, 1, 1, 1, 1, -1][: len(batch.word_ids[0])]
    assert set(tokenizer("dog")) == {"input_ids", "attention_mask"}


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


PLAIN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


@pytest.mark.parametrize(
    "stated",
    [
        PLAIN,
        PLAIN | {"do_normalize": False},
        PLAIN | {"do_rescale": False},
        PLAIN | {"rescale_factor": 1 / 127.5},
        PLAIN | {"rescale_factor": 1 / 127.5, "do_normalize": False},
        PLAIN | {"image_mean": 0.25, "image_std": 0.5},
        {},
    ],
)
def test_pixels_reach_the_encoder_as_its_own_preprocessor_makes_them(tmp_path, stated):
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    for name in ("image_mean", "image_std", "do_normalize", "do_rescale", "rescale_factor"):
        content.pop(name, None)
    path.write_text(json.dumps(content | stated))
    mean, deviation = (torch.tensor(v)[:, None, None] for v in pixel_statistics(str(tmp_path)))
    pixels = torch.randint(0, 256, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    for name in ("image_mean", "image_std"):  # which the library takes for colours without number
        value = getattr(processor, name)
        setattr(processor, name, [value] * 3 if isinstance(value, float) else value)
    expected = processor(pixels.to(torch.uint8), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close((pixels / 255 - mean) / deviation, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"image_mean": None}, "image_mean None, not three numbers"),
        ({"image_std": 0}, "image_std .* nothing can be divided"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std .* nothing can be divided"),
        ({"image_mean": "grey"}, "image_mean 'grey', not three numbers"),
        ({"image_mean": [0.5, 0.5]}, "not three numbers"),
        ({"rescale_factor": 0}, "rescale_factor 0"),
        ({"do_flip_channel_order": True}, "reads BGR"),
        ({"image_processor_type": "MobileViTImageProcessor"}, "reads BGR"),
        ({"rescale_offset": True}, "shifts pixels"),
    ],
)
def test_a_preprocessor_that_cannot_be_followed_is_one_line(tmp_path, stated, problem):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    with pytest.raises(ValueError, match=problem) as error:
        pixel_statistics(str(tmp_path))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_damaged_preprocessor_is_not_taken_for_none(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1')
    with pytest.raises(ValueError, match=r"the preprocessor of .* cannot be read"):
        pixel_statistics(str(tmp_path))


def test_a_tokenizer_pads_right_and_returns_a_mask_whatever_it_did(tmp_path):
    tokenizer = tiny_tokenizer("wordpiece")
    tokenizer.padding_side, tokenizer.model_input_names = "left", ["input_ids"]
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    batch = again(CAPTIONS[:2], padding=True)
    assert batch["attention_mask"][1][0] == 1 and again.padding_side == "right"
    processor = ViltaProcessor.from_config(tiny_config(), tokenizer)
    processor.save_pretrained(tmp_path / "released")
    assert load_tokenizer(str(tmp_path / "released")).padding_side == "right"
    assert AutoTokenizer.from_pretrained(tmp_path / "released").padding_side == "right"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_language_model_in_half_precision_goes_on_in_float32(tmp_path, dtype):
    new_language_model(30, 16, 1, 2, 0.0, 12).to(dtype).save_pretrained(tmp_path)
    model = continue_language_model(str(tmp_path))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_any_tokenizer_kind_is_read_back(tmp_path):
    for kind in ("byte-bpe", "unigram"):
        tokenizer = tiny_tokenizer(kind)
        tokenizer.save_pretrained(tmp_path / kind)
        again = load_tokenizer(str(tmp_path / kind))
        assert again(CAPTIONS)["input_ids"] == tokenizer(CAPTIONS)["input_ids"]


def test_a_saved_tokenizer_does_not_tell_how_it_was_called(tmp_path):
    """Its file keeps the last truncation and padding: a run that only releases made none."""
    tokenizer = new_tokenizer(CAPTIONS * 2, 120)
    forget_calls(tokenizer)
    tokenizer.save_pretrained(tmp_path / "unused")
    tokenizer(CAPTIONS, truncation=True, max_length=4, padding=True)
    forget_calls(tokenizer)
    tokenizer.save_pretrained(tmp_path / "used")
    used, unused = (tmp_path / name / "tokenizer.json" for name in ("used", "unused"))
    assert used.read_bytes() == unused.read_bytes()
