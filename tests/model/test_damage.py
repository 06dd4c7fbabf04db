"""Models, configurations and tokenizers that are damaged are refused in a line.

Found by reliability/fuzz_readers.py.
"""

import json
import logging

import pytest
import torch
from tiny_models import VISION, tiny_tokenizer, tiny_vilta

from vilta.apps.released import load_released
from vilta.model.encoders import load_image_encoder
from vilta.model.meter import read_checkpoint
from vilta.model.pixel_statistics import pixel_statistics
from vilta.objectives.vocabulary import MOST_WORDS, words_of


def refused(problem, read, *arguments):
    with pytest.raises(ValueError, match=problem) as error:
        read(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": {"x": 1}},
        {"hidden_size": [8]},
        {"hidden_size": -1},
        {"hidden_size": 2**62},
        {"num_hidden_layers": 2**31},
        {"num_hidden_layers": [1]},
        {"stem_widths": 0.5},
    ],
)
def test_an_image_encoder_that_cannot_be_built(tmp_path, change):
    path = tmp_path / "image.json"
    path.write_text(json.dumps(VISION["vilta-conv-vit"].to_dict() | change))
    refused("image.json", load_image_encoder, str(path))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    tiny_vilta().save_pretrained(folder)
    tiny_tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": 7},
        {"vision_config": 7},
        {"vision_config": {"model_type": "vit", "hidden_size": [8]}},
        {"text_config": {"model_type": ["bert"]}},
        {"architectures": 7},
        {"architectures": ["a\nb"]},
        {"hidden_size": "many"},
        {"fusion_layers": 2**31},
        {"text_config": {"model_type": "bert", "num_hidden_layers": 2**31}},
        None,
    ],
)
def test_a_released_model_with_another_config(released, tmp_path, change):
    for file in released.iterdir():
        (tmp_path / file.name).symlink_to(file)
    content = json.loads((released / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    text = json.dumps(content | change) if change else "{"
    (tmp_path / "config.json").write_text(text)
    refused("", load_released, tmp_path)


def test_a_text_encoder_is_no_model_of_vilta(tmp_path, caplog):
    """transformers would warn that the kind is another, and go on with its own defaults."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 99}))
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        refused(
            "holds a model of the kind 'bert'; name a pre-training run",
            load_released,
            tmp_path,
        )
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"\x80\2}q\0."])
def test_a_checkpoint_of_meter_that_is_none(tmp_path, content):
    (tmp_path / "meter.ckpt").write_bytes(content)
    refused("meter.ckpt holds", read_checkpoint, tmp_path / "meter.ckpt")


@pytest.mark.parametrize("number", [10**400, 1e99, float("nan")])
def test_numbers_of_a_preprocessor_that_no_pixel_can_be_reckoned_with(tmp_path, number):
    path = tmp_path / "preprocessor_config.json"
    for stated in ({"image_mean": number}, {"image_std": number}, {"rescale_factor": number}):
        path.write_text(json.dumps(stated))
        refused("the preprocessor of", pixel_statistics, str(tmp_path))


@pytest.mark.parametrize("content", ["0.5", "[]", '"x"'])
def test_a_preprocessor_that_is_no_object(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content)
    refused("the preprocessor of", pixel_statistics, str(tmp_path))


def test_a_word_with_a_number_that_would_fill_the_memory(monkeypatch):
    tokenizer = tiny_tokenizer("wordpiece")
    assert None not in words_of(tokenizer)
    monkeypatch.setattr(tokenizer, "get_vocab", lambda: {"a": MOST_WORDS})
    refused("gives a word the number 10,000,000", words_of, tokenizer)


def test_a_state_dict_of_no_tensors(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "a.ckpt")
    refused("holds no state dict", read_checkpoint, tmp_path / "a.ckpt")
