"""Writing without spaces is masked token by token, and what a tokenizer lacks is told."""

import io
import unicodedata
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import CAPTIONS, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vilta.config import DataConfig
from vilta.data.collate import PairCollator
from vilta.data.mixture import some_captions, training_data
from vilta.data.word_borders import unknown_share, unknown_words_told, word_indices
from vilta.model.language_model import new_tokenizer
from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import read_vocabulary
from vilta.types import Sample

CHINESE = "两只狗在草地上奔跑追球"
JAPANESE = "ふたりのこどもがボールであそんでいる"
THAI = "สุนัขสองตัววิ่งเล่นบนสนามหญ้า"
BORDERLESS = [CHINESE, JAPANESE, THAI]


def metaspace(texts, vocabulary=90):
    """A tokenizer in the way of XLM-R: pieces of what stands between spaces."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    names = dict(unk_token="<unk>", pad_token="<pad>", mask_token="<mask>")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=list(names.values()),
        unk_token="<unk>",
        show_progress=False,
    )
    core.train_from_iterator(texts * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def batch_of(tokenizer, captions, rate=0.15, longest=80):
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    mask = partial(mask_words, vocabulary=vocabulary, rate=rate)
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    samples = [
        Sample(
            pixels=picture,
            caption=caption,
            image_id=str(i),
            image_hash=i,
            index=i,
            epoch=0,
            name=str(i),
        )
        for i, caption in enumerate(captions)
    ]
    return PairCollator(tokenizer, longest, mask, 0)(samples)


@pytest.mark.parametrize("text", BORDERLESS)
@pytest.mark.parametrize("kind", ["metaspace", "byte-bpe", "wordpiece"])
def test_a_caption_without_spaces_is_masked_in_part(text, kind):
    tokenizer = (
        metaspace(BORDERLESS)
        if kind == "metaspace"
        else new_tokenizer(BORDERLESS, 400)
        if kind == "wordpiece"
        else tiny_tokenizer("byte-bpe")
    )
    batch = batch_of(tokenizer, [text])
    words = int((batch.word_ids >= 0).sum())
    assert words > 8
    assert 1 <= len(batch.masked_positions) <= 0.4 * words, "some of it, not all of it"


def test_the_bytes_of_a_letter_stay_together():
    tokenizer = tiny_tokenizer("byte-bpe")
    encoded = tokenizer([CHINESE])
    words = [w for w in word_indices(encoded, 0, CHINESE) if w >= 0]
    assert len(words) >= 3 * len(CHINESE) and len(set(words)) == len(CHINESE)


@given(st.lists(st.sampled_from([*CAPTIONS, *BORDERLESS, "한국어 문장", "ab", "5,"]), min_size=1))
def test_words_are_numbered_from_0_in_order(parts):
    text = " ".join(parts)
    for tokenizer in TOKENIZERS:
        encoded = tokenizer([text])
        words = [w for w in word_indices(encoded, 0, text) if w >= 0]
        assert words == sorted(words) and set(words) == set(range(len(set(words))))


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_a_word_whose_end_is_cut_away_is_no_word(kind):
    tokenizer = tiny_tokenizer(kind)
    caption = "the red ball near the skateboarder on the snow"
    whole = tokenizer(caption)
    numbers = whole.word_ids()
    ends = range(4, len(numbers))
    cut = [end for end in ends if numbers[end - 2] == numbers[end - 1] is not None]
    assert cut, "some limits fall within a word"
    for end in ends:
        batch = batch_of(tokenizer, [caption, "the dog"], rate=1.0, longest=end)
        last = numbers[end - 2] if end in cut else None  # the last token is the special one
        read = [-1 if n in (None, last) else n for n in numbers[: end - 1]]
        assert batch.word_ids[0].tolist() == [*read, -1]
        masked = {at for at in batch.masked_positions.tolist() if at < batch.input_ids.shape[1]}
        assert masked == {at for at, number in enumerate(read) if number >= 0}


def test_a_letter_whose_end_is_cut_away_is_no_word():
    tokenizer = tiny_tokenizer("byte-bpe")
    encoded = tokenizer([CHINESE])
    expected = word_indices(encoded, 0, CHINESE)
    for end in range(5, len(expected)):
        batch = batch_of(tokenizer, [CHINESE], longest=end)
        last = expected[end - 2] if expected[end - 2] == expected[end - 1] else None
        read = [-1 if number == last else number for number in expected[: end - 1]]
        assert batch.word_ids[0].tolist() == [*read, -1]


TOKENIZERS = [metaspace([*CAPTIONS, *BORDERLESS]), *map(tiny_tokenizer, ["wordpiece", "byte-bpe"])]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_writing_with_spaces_is_as_the_tokenizer_has_it(kind):
    tokenizer = tiny_tokenizer(kind)
    encoded = tokenizer(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        known = [-1 if w is None else w for w in encoded.word_ids(row)]
        assert word_indices(encoded, row, caption) == known


def test_unknown_words_are_counted_and_told():
    tokenizer = new_tokenizer(CAPTIONS * 2, 200)
    assert unknown_words_told(CAPTIONS, tokenizer) == ""
    assert unknown_share(BORDERLESS, tokenizer) == 1.0
    mixed = [*CAPTIONS, *BORDERLESS]
    assert 0 < unknown_share(mixed, tokenizer) < 1
    assert "% of the captions' tokens are unknown" in unknown_words_told(mixed, tokenizer)
    assert unknown_share(BORDERLESS, tiny_tokenizer("byte-bpe")) == 0.0


def test_captions_of_a_mixture_are_looked_at(tmp_path):
    (tmp_path / "m.yaml").write_text("scenes:7?seed=1&size=32: 1\nscenes:9?seed=2&size=32: 0.5\n")
    data, _ = training_data(DataConfig(train=str(tmp_path / "m.yaml"), image_size=32), 0)
    assert len(some_captions(data)) == 16 and all(some_captions(data))


def test_captions_of_a_stream_are_looked_at_and_it_begins_as_before(tmp_path):
    pixels = io.BytesIO()
    Image.new("RGB", (20, 16)).save(pixels, "JPEG")
    table = {"jpg": [pixels.getvalue()] * 3, "caption": [CHINESE, "a dog", JAPANESE]}
    pq.write_table(pa.table(table), tmp_path / "0.parquet")
    config = DataConfig(train=f"stream:{tmp_path}", image_size=16)
    looked, _ = training_data(config, 0)
    texts = some_captions(looked)
    assert set(texts) == {CHINESE, "a dog", JAPANESE}
    assert "tokens are unknown" in unknown_words_told(texts, tiny_tokenizer("wordpiece"))
    fresh, _ = training_data(config, 0)
    assert [looked[0, i].caption for i in range(9)] == [fresh[0, i].caption for i in range(9)]


def test_a_caption_of_which_no_token_is_left_is_unknown():
    core = Tokenizer(models.BPE({"<mask>": 0, "a": 1, "b": 2}, []))  # it leaves out other letters
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>")
    assert unknown_share(["ab", CHINESE], tokenizer) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [("schön", "schon"), ("đẹp", "đep"), ("कुत्ते", "कत"), ("é", "e")],
)
def test_accents_and_vowel_signs_are_letters(one, other):
    captions = [f"{one} {other} word"] * 3
    tokenizer = new_tokenizer(captions, 120)
    assert tokenizer.tokenize(one) != tokenizer.tokenize(other)
    assert tokenizer.decode(tokenizer(one)["input_ids"], skip_special_tokens=True) == one
    apart = unicodedata.normalize("NFD", one)
    assert tokenizer.tokenize(apart) == tokenizer.tokenize(one)
    if one == "schön":
        stripped = new_tokenizer(captions, 120, strip_accents=True)
        assert stripped.tokenize(one) == stripped.tokenize(other) == ["schon"]
