import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CAPTIONS, encoded, tiny_tokenizer

from vilta.objectives.masking import mask_words
from vilta.objectives.vocabulary import read_vocabulary

KINDS = ["wordpiece", "byte-bpe", "unigram"]
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})


@functools.cache
def words_of(kind):
    tokenizer = tiny_tokenizer(kind)
    return tokenizer, read_vocabulary(tokenizer, len(tokenizer) + 3)


def words_in_row(word_ids):
    """List the positions of each word, in order."""
    words = {}
    for position, word in enumerate(word_ids.tolist()):
        if word >= 0:
            words.setdefault(word, []).append(position)
    return list(words.values())


def slow_mask(ids, word_ids, noise, vocabulary, rate, content_weight, scheme):
    masked, selected = ids.clone(), torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        words = words_in_row(word_ids[row])
        if not words:
            continue
        keys = []
        for places in words:
            content = bool(vocabulary.content[ids[row, places[0]]])
            weight = content_weight if content else 1.0
            keys.append(-math.log(max(noise[row, places[0], 0].item(), 1e-12)) / weight)
        count = max(1, math.floor(len(words) * rate + 0.5))
        for i in sorted(range(len(words)), key=keys.__getitem__)[:count]:
            for place in words[i]:
                selected[row, place] = True
                dice = noise[row, place, 1].item()
                if scheme == "mask" or dice < 0.8:
                    masked[row, place] = vocabulary.mask_id
                elif dice < 0.9:
                    size = len(vocabulary.regular)
                    pick = min(int((noise[row, place, 1] - 0.8) * 10 * size), size - 1)
                    masked[row, place] = vocabulary.regular[pick]
    return masked, selected


@pytest.mark.parametrize("kind", KINDS)
@given(
    captions=st.lists(
        st.lists(st.sampled_from([*WORDS, "qzx", "☃", "!?"]), max_size=14).map(" ".join),
        min_size=1,
        max_size=4,
    ),
    rate=st.sampled_from([0.0, 0.15, 0.4, 1.0]),
    content_weight=st.sampled_from([1.0, 4.0]),
    scheme=st.sampled_from(["mask", "80-10-10"]),
    seed=st.integers(0, 10_000),
)
def test_equals_a_plain_loop(kind, captions, rate, content_weight, scheme, seed):
    tokenizer, vocabulary = words_of(kind)
    ids, mask, word_ids = encoded(tokenizer, captions)
    noise = torch.rand(*ids.shape, 2, generator=torch.Generator().manual_seed(seed))
    settings = dict(rate=rate, content_weight=content_weight, scheme=scheme)
    before = ids.clone(), word_ids.clone(), noise.clone()
    masked, selected = mask_words(ids, word_ids, noise, vocabulary, **settings)
    expected, chosen = slow_mask(ids, word_ids, noise, vocabulary, **settings)
    assert torch.equal(selected, chosen)
    assert torch.equal(masked, expected)
    for value, old in zip((ids, word_ids, noise), before, strict=True):
        assert torch.equal(value, old)

    # What the loop would get wrong in the same way:
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids)) | (mask == 0)
    assert not (selected & special).any()
    assert torch.equal(masked[~selected], ids[~selected])
    for row in range(len(ids)):
        words = words_in_row(word_ids[row])
        hidden = [selected[row, places].tolist() for places in words]
        assert all(len(set(word)) == 1 for word in hidden), "a word is hidden whole or not at all"
        if words:
            exact = len(words) * rate
            assert sum(word[0] for word in hidden) == max(1, math.floor(exact + 0.5))
    if scheme == "mask":
        assert (masked[selected] == vocabulary.mask_id).all()


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_of_the_test_do_split_words(kind):
    tokenizer, _ = words_of(kind)
    _, _, word_ids = encoded(tokenizer, CAPTIONS)
    assert max(len(places) for row in word_ids for places in words_in_row(row)) > 2


def test_result_depends_on_noise_alone_not_on_the_global_generator():
    tokenizer, vocabulary = words_of("wordpiece")
    ids, _, word_ids = encoded(tokenizer, CAPTIONS)
    noise = torch.rand(*ids.shape, 2)
    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        results.append(mask_words(ids, word_ids, noise, vocabulary, scheme="80-10-10")[0])
    assert torch.equal(*results)
    other = mask_words(ids, word_ids, torch.rand(*ids.shape, 2), vocabulary)[0]
    assert not torch.equal(other, mask_words(ids, word_ids, noise, vocabulary)[0])


def test_a_row_does_not_depend_on_its_neighbours():
    tokenizer, vocabulary = words_of("byte-bpe")
    ids, _, word_ids = encoded(tokenizer, CAPTIONS)
    noise = torch.rand(*ids.shape, 2)
    together = mask_words(ids, word_ids, noise, vocabulary)[0]
    for i in range(len(ids)):
        alone = mask_words(ids[i : i + 1], word_ids[i : i + 1], noise[i : i + 1], vocabulary)[0]
        assert torch.equal(alone[0], together[i])


def test_caption_without_words_keeps_its_tokens():
    tokenizer, vocabulary = words_of("wordpiece")
    ids, _, word_ids = encoded(tokenizer, ["", "☃", "ball"])
    masked, selected = mask_words(ids, word_ids, torch.rand(*ids.shape, 2), vocabulary)
    assert torch.equal(masked[:2], ids[:2]) and not selected[:2].any()
    assert selected[2].sum() == (word_ids[2] >= 0).sum()


def test_words_that_a_tokenizer_leaves_out_may_be_more_than_tokens():
    """Some drop what they do not know; the words around it keep their numbers."""
    _, vocabulary = words_of("wordpiece")
    word_ids = torch.tensor([[-1, 2, 7, 7, -1], [-1, 0, 40, -1, -1]])
    ids = torch.full_like(word_ids, int(vocabulary.regular[0]))
    noise = torch.rand(*ids.shape, 2)
    _, selected = mask_words(ids, word_ids, noise, vocabulary, rate=1.0)
    assert torch.equal(selected, word_ids >= 0)
    _, selected = mask_words(ids, word_ids, noise, vocabulary, rate=0.5)
    _, dense = mask_words(ids, torch.tensor([[-1, 0, 1, 1, -1], [-1, 0, 1, -1, -1]]), noise,
                          vocabulary, rate=0.5)  # fmt: skip
    assert torch.equal(selected, dense)


def test_content_words_are_preferred_by_their_weight():
    tokenizer, vocabulary = words_of("wordpiece")
    rows = 20_000
    ids, _, word_ids = encoded(tokenizer, ["the ball is on a cube"] * 1)
    content = vocabulary.content[ids[0]] & (word_ids[0] >= 0)
    first = word_ids[0] != word_ids[0].roll(1)
    heavy, light = (content & first).sum().item(), (~content & first & (word_ids[0] >= 0)).sum()
    assert heavy == 2 and light == 4
    ids, word_ids = ids.expand(rows, -1), word_ids.expand(rows, -1)
    for weight in (1.0, 4.0):
        _, selected = mask_words(
            ids, word_ids, torch.rand(*ids.shape, 2), vocabulary, rate=0.0, content_weight=weight
        )
        share = selected[:, content & first].sum().item() / rows
        expected = weight * 2 / (weight * 2 + 4)
        assert share == pytest.approx(expected, abs=5 * math.sqrt(0.25 / rows))


def test_shares_of_80_10_10():
    tokenizer, vocabulary = words_of("wordpiece")
    ids, _, word_ids = encoded(tokenizer, CAPTIONS * 300)
    masked, selected = mask_words(
        ids, word_ids, torch.rand(*ids.shape, 2), vocabulary, rate=1.0, scheme="80-10-10"
    )
    count = selected.sum().item()
    assert count > 20_000
    by_mask = (masked[selected] == vocabulary.mask_id).sum().item() / count
    kept = (masked[selected] == ids[selected]).sum().item() / count
    assert by_mask == pytest.approx(0.8, abs=0.01)
    # A random token is now and then the token itself.
    assert kept == pytest.approx(0.1 + 0.1 / len(vocabulary.regular), abs=0.01)
    drawn = masked[selected & (masked != vocabulary.mask_id) & (masked != ids)]
    assert not torch.isin(drawn, torch.tensor(tokenizer.all_special_ids)).any()
    assert drawn.unique().numel() == len(vocabulary.regular), "any ordinary token may be drawn"
