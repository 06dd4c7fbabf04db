import pytest
import torch
from tiny_models import SPECIAL, known_tokenizer, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vilta.objectives.vocabulary import (
    VocabularyTables,
    hash_of_words,
    read_vocabulary,
    require_same_words,
)

WORDS = ["the", "ball", "balls", "run", "running", "##s", "##ball", "3", ".", "x9", "blue", "under"]


def facts(tokenizer, vocabulary):
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return tokens, {
        name: {
            tok for tok, yes in zip(tokens, getattr(vocabulary, name).tolist(), strict=False) if yes
        }
        for name in ("whole", "content")
    }


def test_facts_about_word_pieces():
    tokenizer = known_tokenizer(WORDS)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer) + 4)
    tokens, sets = facts(tokenizer, vocabulary)
    plain = {"ball", "balls", "run", "running", "blue", "under"}
    assert sets["whole"] == plain | {"the"}
    assert {w for w in sets["content"] if not w.startswith("##")} == plain
    assert not vocabulary.whole[len(tokenizer) :].any()
    assert not vocabulary.content[len(tokenizer) :].any()
    assert vocabulary.regular.tolist() == list(range(len(SPECIAL), len(tokenizer)))
    assert vocabulary.mask_id == tokens.index("[MASK]")
    stem = dict(zip(tokens, vocabulary.stem.tolist(), strict=False))
    assert stem["ball"] == stem["balls"]
    assert stem["run"] == stem["running"]
    assert len({stem[w] for w in ("the", "ball", "run", "blue", "under", "3", ".")}) == 7


@pytest.mark.parametrize(("kind", "mark"), [("byte-bpe", "Ġ"), ("unigram", "▁")])
def test_facts_about_tokens_that_mark_beginnings(kind, mark):
    tokenizer = tiny_tokenizer(kind)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    _, sets = facts(tokenizer, vocabulary)
    assert f"{mark}a" in sets["whole"] and f"{mark}a" not in sets["content"]
    assert len(sets["whole"] & sets["content"]) > 5
    assert all(token.startswith(mark) for token in sets["whole"])
    words = {tokenizer.convert_tokens_to_string([t]).strip(" ▁") for t in sets["whole"]}
    assert all(word.isalpha() for word in words)
    assert not set(SPECIAL) & (sets["whole"] | sets["content"])


@pytest.mark.parametrize("words", [WORDS, [word for word in WORDS if not word.startswith("##")]])
@pytest.mark.parametrize("odd", ["▁", "▁sale", "Ġ"])
def test_a_mark_that_is_a_word_of_the_captions_makes_no_other_kind_of_tokenizer(words, odd):
    _, before = facts(*told(known_tokenizer(words)))
    _, after = facts(*told(known_tokenizer([*words, odd])))
    assert before["whole"] == {word for word in after["whole"] if word != odd} != set()


def told(tokenizer):
    return tokenizer, read_vocabulary(tokenizer, len(tokenizer))


def test_bytes_are_letters_only_where_they_spell_letters():
    split = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False).pre_tokenize_str
    written = {word: split(word)[0][0] for word in ("ball", "café", "cafés", "über", "—", "“", "7")}
    halves = [written["café"][:-1], written["—"][:-1], "Ã"]
    tokens = {token: i for i, token in enumerate([*SPECIAL, *written.values(), *halves])}
    core = Tokenizer(models.BPE(vocab=tokens, merges=[], unk_token="[UNK]"))
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    _, sets = facts(tokenizer, vocabulary)
    letters = {written[word] for word in ("ball", "café", "cafés", "über")}
    assert sets["whole"] == sets["content"] == letters
    stems = vocabulary.stem[[tokens[written[word]] for word in ("café", "cafés", "über")]]
    assert stems[0] == stems[1] != stems[2]


def test_tables_follow_their_module_and_are_not_saved():
    tokenizer = known_tokenizer(WORDS)
    vocabulary = read_vocabulary(tokenizer, len(tokenizer))
    tables = VocabularyTables(vocabulary)
    assert not tables.state_dict()
    again = tables.to("meta").tables()
    assert again.mask_id == vocabulary.mask_id
    assert again.whole.device.type == again.stem.device.type == "meta"
    assert vocabulary.to("meta").regular.device.type == "meta"


def test_tokenizer_that_cannot_serve():
    tokenizer = known_tokenizer(WORDS)
    with pytest.raises(ValueError, match=r"has 17 words but the model has embeddings for 16"):
        read_vocabulary(tokenizer, 16)
    core = tokenizer.backend_tokenizer
    with pytest.raises(ValueError, match="no mask token"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]"), 20)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([*WORDS, "more"], ["18 and 17 words", "word 17 is 'more' and None"]),
        (WORDS[:-1], ["16 and 17 words", "word 16 is None and 'under'"]),
        ([*WORDS[:4], "ran", *WORDS[5:]], ["17 and 17 words", "word 9 is 'ran' and 'running'"]),
        ([*WORDS[:2], "run", "balls", *WORDS[4:]], ["word 7 is 'run' and 'balls'"]),
    ],
)
def test_teacher_with_other_words_is_refused(other, words):
    with pytest.raises(ValueError) as error:
        require_same_words(known_tokenizer(WORDS), known_tokenizer(other))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert hash_of_words(known_tokenizer(WORDS)) != hash_of_words(known_tokenizer(other))


def test_teacher_with_the_same_words_is_taken():
    require_same_words(known_tokenizer(WORDS), known_tokenizer(WORDS))
    assert hash_of_words(known_tokenizer(WORDS)) == hash_of_words(known_tokenizer(WORDS))


def test_same_words_but_another_mask_token_have_another_hash():
    changed = known_tokenizer(WORDS)
    changed.mask_token = "blue"
    assert hash_of_words(changed) != hash_of_words(known_tokenizer(WORDS))
    vocabulary = read_vocabulary(changed, len(changed))
    assert not vocabulary.whole[vocabulary.mask_id]
    assert torch.isin(vocabulary.regular, vocabulary.mask_id).sum() == 0
