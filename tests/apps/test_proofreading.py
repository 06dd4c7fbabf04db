import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import noise, write_run
from tiny_models import CAPTIONS, text_alone, tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from vilta import Matcher
from vilta.apps.proofreading import UNFLAGGED, flag_threshold
from vilta.apps.words import find_words, read_until, say_unread, unknown_words

CAPTION = "a small unbelievable ball, lies."


@pytest.fixture(scope="module")
def matcher(tiny_run):
    return Matcher(tiny_run, device="cpu")


@pytest.mark.parametrize("fusion", ["co-attention", "text-layers"])
def test_each_word_is_judged_with_the_image_and_without(fusion, tmp_path):
    matcher = Matcher(write_run(tmp_path / "run", fusion=fusion), device="cpu")
    found = matcher.proofread(noise(0), CAPTION)
    words = [w.word for w in found.words]
    assert words == ["a", "small", "unbelievable", "ball", "lies"]
    assert [CAPTION[w.start : w.end] for w in found.words] == words
    model, tokens = matcher.model, find_words(matcher.tokenizer, CAPTION, 24)[0]
    hidden = tokens.clone()
    hidden[0, 2] = matcher.tokenizer.mask_token_id
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        image = matcher.encode_images([noise(0)]).clone()
        text = model.vilta.encode_text(hidden, mask)
        fused = model.vilta.fuse(text, mask, image).text
        chances = model.predict_words(fused[0, 2:3], text[0, 2:3]).softmax(dim=1)
        alone = text_alone(model, hidden, mask)[0, 2].softmax(0)
    p, q = float(chances[0, tokens[0, 2]]), float(alone[tokens[0, 2]])
    assert found.words[1].with_image == pytest.approx(math.log(p / (1 - p)), abs=1e-3)
    assert found.words[1].without_image == pytest.approx(math.log(q / (1 - q)), abs=1e-3)


def test_words_are_predicted_where_they_are_hidden_alone(matcher):
    """At every position of every row they would be a gigabyte for a long caption."""
    model, most = matcher.model, 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            found = func(*args, **(kwargs or {}))
            if not func.is_view and getattr(found, "shape", ())[-1:] == (size,):
                most = max(most, found.numel() // size)
            return found

    size = len(model.get_input_embeddings().weight)
    tokens, words = find_words(matcher.tokenizer, CAPTION, 24)
    with Largest():
        matcher.proofread(noise(0), CAPTION)
    assert most == sum(len(word.tokens) for word in words) < len(words) * tokens.shape[1]
    most = 0
    with Largest():
        assert len(matcher.fill(noise(0), "a ___ ball ___")) == 2
    assert most == 2


def test_suspicion_adds_the_gain_of_matching_and_what_the_image_takes_away(matcher):
    found = matcher.proofread(noise(0), CAPTION)
    changed = [w for w in found.words if w.instead]
    assert changed

    def log_p(log_odds):
        return -math.log1p(math.exp(-log_odds))

    for word in changed:
        other = CAPTION[: word.start] + word.instead + CAPTION[word.end :]
        odds = matcher.log_odds(noise(0), [CAPTION, other])
        assert word.better == pytest.approx(float(odds[1] - odds[0]), abs=1e-3)
        taken = log_p(word.without_image) - log_p(word.with_image)
        assert word.suspicion == pytest.approx(word.better + taken, abs=1e-3)


def test_suspicion_weighs_the_gain_by_the_temperature(tiny_run):
    plain, calibrated = (Matcher(tiny_run, device="cpu") for _ in range(2))
    plain.model.config.match_temperature, calibrated.model.config.match_temperature = 1.0, 4.0
    first, second = (m.proofread(noise(0), CAPTION) for m in (plain, calibrated))
    for one, other in zip(first.words, second.words, strict=True):
        assert other.better == pytest.approx(one.better, abs=1e-4)
        assert one.suspicion - other.suspicion == pytest.approx(0.75 * one.better, abs=1e-4)


def test_the_most_suspect_word_is_corrected(tiny_run):
    matcher = Matcher(tiny_run, device="cpu")
    matcher.model.config.suspicion_threshold = -1e9
    found = matcher.proofread(noise(0), CAPTION)
    worst = max((w for w in found.words if w.better > 0), key=lambda w: w.suspicion)
    assert found.flagged[0] == worst
    assert found.corrected == CAPTION[: worst.start] + worst.instead + CAPTION[worst.end :]
    assert all(w.flagged == (w.better > 0) for w in found.words)  # none for a worse word
    matcher.model.config.suspicion_threshold = 1e9
    found = matcher.proofread(noise(0), CAPTION)
    assert found.flagged == () and found.corrected == CAPTION


def test_a_replacement_is_written_as_the_word_that_it_replaces(matcher):
    capital = matcher.proofread(noise(0), CAPTION.capitalize())
    assert capital.words[0].instead, "no replacement of the first word was tried"
    for word in capital.words:
        if word.instead:
            assert word.instead[0].isupper() == word.word[0].isupper()


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_the_threshold_leaves_the_share_unflagged(suspicions):
    threshold = flag_threshold(suspicions)
    assert sum(s <= threshold for s in suspicions) >= UNFLAGGED * len(suspicions)
    assert threshold in suspicions


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_words_are_found_where_they_stand(kind):
    tokenizer = tiny_tokenizer(kind)
    for caption in CAPTIONS:
        tokens, words = find_words(tokenizer, caption, 40)
        assert [caption[w.start : w.end] for w in words] == [w.text for w in words]
        places = [place for word in words for place in word.tokens]
        assert len(set(places)) == len(places) and max(places) < tokens.shape[1]
        joined = "".join(w.text for w in words)
        assert all(letter in joined for letter in caption if letter.isalnum())
    short, _ = find_words(tokenizer, CAPTIONS[0], 8)
    assert short.shape[1] <= 8


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_a_word_that_is_cut_in_two_is_none(kind, capsys):
    """A replacement of its beginning would leave its end in the caption."""
    tokenizer, cut = tiny_tokenizer(kind), 0
    for caption in CAPTIONS:
        every = find_words(tokenizer, caption, 100)[1]
        for longest in range(len(every[0].tokens) + 2, 40):
            tokens, words = find_words(tokenizer, caption, longest)
            assert words == every[: len(words)]
            unread = caption[read_until(tokenizer, caption, longest) :]
            say_unread(tokenizer, [caption], longest)
            said = " ".join(capsys.readouterr().err.split())
            if unread.strip():
                assert f"from {unread.split()[0]!r} on, are ignored" in said
                assert not unread[0].isalnum() or not caption[: -len(unread)][-1:].isalnum()
            else:
                assert not said and words == every
            read = max(place for word in words for place in word.tokens) + 1
            cut += len(words) < len(every) and read < tokens.shape[1] - 1
    assert cut


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "unigram"])
def test_words_that_are_not_in_the_vocabulary_are_told(kind, capsys):
    tokenizer = tiny_tokenizer(kind)
    known = kind == "byte-bpe"  # it can spell every word
    assert unknown_words(tokenizer, "a мяч and a ball and a мяч") == ([] if known else ["мяч"])
    assert unknown_words(tokenizer, CAPTIONS[0]) == unknown_words(tokenizer, "") == []
    say_unread(tokenizer, ["a мяч", "a ball", "a щит"], 40)
    said = capsys.readouterr().err
    assert said == ("" if known else "note: the model's vocabulary does not have: мяч, щит\n")
