import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import encoded, known_tokenizer

from vilta.objectives.hard_negatives import WordFilter, synthesise_negatives
from vilta.objectives.vocabulary import read_vocabulary

WORDS = """
    the a red blue green crimson ball balls cube cubes dog dogs run runs running under
    near grass skate ##board ##er 3 . , ##s boat
""".split()  # noqa: SIM905
CAPTIONS = [
    "a red ball near the blue cube .",
    "3 dogs running",
    "the skateboarder runs",
    "balls , cubes",
    "skateboarder .",
    "dog",
    "a crimson boat under a boat",
]
TOKENIZER = known_tokenizer(WORDS)
SIZE = len(TOKENIZER) + 2  # models are often padded beyond their tokenizer
VOCABULARY = read_vocabulary(TOKENIZER, SIZE)
TOKENS = [*TOKENIZER.convert_ids_to_tokens(list(range(len(TOKENIZER)))), None, None]
FAMILIES = [{"ball", "balls"}, {"cube", "cubes"}, {"dog", "dogs"}, {"run", "runs", "running"}]


def family(word):
    return next((f for f in FAMILIES if word in f), {word})


def is_word(token):
    return token is not None and token.isalpha()


def draw_case(seed, rate=0.5, spread=3.0, rows=CAPTIONS):
    """Captions, words masked whole at random, and random logits."""
    generator = torch.Generator().manual_seed(seed)
    ids, _, word_ids = encoded(TOKENIZER, list(rows))
    chosen = torch.rand(ids.shape, generator=generator) < rate
    masked = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        for word in {w for w in word_ids[row].tolist() if w >= 0}:
            places = word_ids[row] == word
            masked[row, places] = chosen[row, places].any()
    at = masked.flatten().nonzero().squeeze(1)
    text, image = torch.randn(2, len(at), SIZE, generator=generator) * spread
    return ids, word_ids, masked, at, text, image


def slow_candidates(ids, word_ids, at, text, image, ratio, count, min_p=0.0):
    """What may be written at each masked position, one word after the other."""
    options = {}
    for m, position in enumerate(at.tolist()):
        row, place = divmod(position, ids.shape[1])
        original = TOKENS[ids[row, place]]
        alone = (word_ids[row] == word_ids[row, place]).sum() == 1
        allowed = []
        for w in range(SIZE):
            if not (alone and is_word(original) and is_word(TOKENS[w])):
                continue
            if TOKENS[w] in family(original):
                continue
            expected = text[m].double().softmax(0)
            likeliest = max(expected[v] for v in range(SIZE) if is_word(TOKENS[v]))
            if expected[w] < min_p * likeliest:
                continue
            if image is not None:
                p = image[m].double().softmax(0)
                if p[w] >= ratio * p[ids[row, place]]:
                    continue
            allowed.append(w)
        allowed.sort(key=lambda w: -text[m, w].item())
        options[row, place] = allowed[:count]
    return options


@given(
    seed=st.integers(0, 100_000),
    max_changes=st.integers(1, 3),
    candidates=st.sampled_from([1, 3, 20, 1000]),
    ratio=st.sampled_from([0.01, 0.1, 1.0]),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    grounded=st.booleans(),
)
def test_properties(seed, max_changes, candidates, ratio, rate, min_p, grounded):
    ids, word_ids, masked, at, text, image = draw_case(seed, rate)
    filter_logits = image if grounded else None
    filters = [WordFilter(image, ratio)] if grounded else []
    torch.manual_seed(seed)
    settings = dict(candidates=candidates, max_changes=max_changes, min_p=min_p)
    before = ids.clone()
    written = synthesise_negatives(ids, word_ids, at, text, VOCABULARY, filters=filters, **settings)
    assert torch.equal(ids, before)
    options = slow_candidates(ids, word_ids, at, text, filter_logits, ratio, candidates, min_p)
    differs = written.input_ids != ids
    assert torch.equal(differs, written.changed)
    assert not (differs & ~masked).any(), "only masked positions change"
    for row in range(len(ids)):
        possible = [place for (r, place), words in options.items() if r == row and words]
        changes = differs[row].nonzero().flatten().tolist()
        assert written.valid[row].item() == bool(possible) == bool(changes)
        assert len(changes) <= min(max_changes, len(possible))
        for place in changes:
            new = written.input_ids[row, place].item()
            assert new in options[row, place]
            # The same once more, in words.
            assert is_word(TOKENS[new]) and is_word(TOKENS[ids[row, place]])
            assert TOKENS[new] not in family(TOKENS[ids[row, place]])
    again_torch = torch.manual_seed(seed)
    again = synthesise_negatives(ids, word_ids, at, text, VOCABULARY, filters=filters, **settings)
    assert torch.equal(again.input_ids, written.input_ids), again_torch


@given(seed=st.integers(0, 1000), ratio=st.sampled_from([0.05, 0.5]))
def test_share_that_the_filter_removes(seed, ratio):
    ids, word_ids, _, at, text, image = draw_case(seed, rate=1.0)
    written = synthesise_negatives(
        ids,
        word_ids,
        at,
        text,
        VOCABULARY,
        filters=[WordFilter(image, ratio)],
        candidates=4,
        min_p=0.0,
    )
    every = slow_candidates(ids, word_ids, at, text, None, ratio, 4)
    kept = slow_candidates(ids, word_ids, at, text, image, ratio, 1000)
    removed = sum(w not in kept[place] for place, words in every.items() for w in words)
    total = sum(map(len, every.values()))
    assert written.removed.item() == pytest.approx(removed / total)
    statistics = written.statistics()
    assert statistics["share"].item() == pytest.approx(written.valid.float().mean().item())
    changed = written.changed.sum().item()
    assert statistics["changed_words"].item() == pytest.approx(changed / written.valid.sum().item())


def repeat(rows, seed=0, spread=2.0, caption="a red ball near the blue cube ."):
    """One caption many times, its words masked, with the same logits in every row."""
    ids, word_ids, masked, _, _, _ = draw_case(seed, 1.0, rows=[caption])
    at = masked.flatten().nonzero().squeeze(1)
    at = (at[None] + torch.arange(rows)[:, None] * ids.shape[1]).flatten()
    logits = torch.randn(masked.sum(), SIZE) * spread
    return ids.repeat(rows, 1), word_ids.repeat(rows, 1), at, logits.repeat(rows, 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_words_are_drawn_from_the_softmax_of_the_likeliest(temperature):
    rows, count = 20_000, 6
    ids, word_ids, at, logits = repeat(rows, caption="ball")
    written = synthesise_negatives(
        ids, word_ids, at, logits, VOCABULARY, candidates=count, min_p=0.0, temperature=temperature
    )
    assert written.valid.all()
    options = slow_candidates(ids[:1], word_ids[:1], at[:1], logits[:1], None, 1.0, count)[0, 1]
    expected = (logits[0, options] / temperature).softmax(0)
    counts = torch.stack([(written.input_ids[:, 1] == w).sum() for w in options]) / rows
    assert counts.sum().item() == pytest.approx(1)
    tolerance = 5 * math.sqrt(0.25 / rows)
    torch.testing.assert_close(counts, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("max_changes", [1, 2, 3])
def test_number_and_place_of_the_changes_are_uniform(max_changes):
    rows = 9_000
    ids, word_ids, at, logits = repeat(rows)
    written = synthesise_negatives(
        ids, word_ids, at, logits, VOCABULARY, min_p=0.0, max_changes=max_changes
    )
    counts = written.changed.sum(dim=1)
    assert set(counts.tolist()) == set(range(1, max_changes + 1))
    tolerance = 5 * math.sqrt(0.25 / rows)
    for n in range(1, max_changes + 1):
        assert (counts == n).float().mean().item() == pytest.approx(1 / max_changes, abs=tolerance)
    # "a red ball near the blue cube": each of the seven words alike, the full stop never.
    places = written.changed.float().mean(dim=0)[1:9]
    expected = torch.tensor([(1 + max_changes) / 2 / 7] * 7 + [0.0])
    torch.testing.assert_close(places, expected, atol=tolerance, rtol=0)


def test_words_in_pieces_stay_whole():
    # skate ##board ##er: neither a piece is written nor is one replaced.
    ids, word_ids, at, logits = repeat(50, caption="skateboarder")
    assert (word_ids[0] == 0).sum() == 3
    written = synthesise_negatives(ids, word_ids, at, logits, VOCABULARY)
    assert not written.valid.any()
    assert torch.equal(written.input_ids, ids)


def test_no_masked_position():
    ids, word_ids, *_ = draw_case(0)
    nothing = torch.zeros(0, dtype=torch.long)
    for filters in ([], [WordFilter(torch.zeros(0, SIZE), 0.1)]):
        written = synthesise_negatives(
            ids, word_ids, nothing, torch.zeros(0, SIZE), VOCABULARY, filters=filters
        )
        assert torch.equal(written.input_ids, ids)
        assert not written.valid.any() and not written.changed.any()
        assert all(torch.isfinite(v) for v in written.statistics().values())


def test_a_caption_whose_every_word_is_plausible_is_counted_not_written():
    ids, word_ids, _, at, text, _ = draw_case(1, rate=1.0)
    flat = torch.zeros_like(text)  # the image finds every word as likely as the original
    written = synthesise_negatives(
        ids, word_ids, at, text, VOCABULARY, filters=[WordFilter(flat, 0.1)]
    )
    assert not written.valid.any() and torch.equal(written.input_ids, ids)
    assert written.removed == 1 and written.statistics()["share"] == 0


def test_the_best_negative_is_likely_to_the_text_and_unlikely_to_the_image():
    ids, word_ids, at, text = repeat(200, caption="ball")
    names = {token: i for i, token in enumerate(TOKENS)}
    text = torch.full_like(text, -20.0)
    text[:, [names["boat"], names["cube"], names["grass"]]] = 5.0
    text[:, names["run"]] = 2.0  # e^-3 of the likeliest: the text rules it out
    image = torch.full_like(text, -5.0)
    image[:, names["ball"]] = 4.0
    image[:, names["boat"]] = 3.0  # the picture may well show a boat
    written = synthesise_negatives(
        ids,
        word_ids,
        at,
        text,
        VOCABULARY,
        filters=[WordFilter(image, 0.1)],
        candidates=3,
        min_p=0.1,
    )
    drawn = set(written.input_ids[:, 1].tolist())
    assert drawn == {names["cube"], names["grass"]}


def test_random_ids_beyond_the_words_and_bf16_logits():
    ids, word_ids, _, at, text, image = draw_case(5, rate=1.0)
    text[:, -2:] = 100.0  # rows of the embedding that no word has
    text[:, :5] = 100.0  # special tokens
    written = synthesise_negatives(
        ids, word_ids, at, text.bfloat16(), VOCABULARY, filters=[WordFilter(image.bfloat16(), 0.1)]
    )
    new = written.input_ids[written.changed]
    assert len(new) > 0 and VOCABULARY.whole[new].all()
    assert torch.isfinite(written.removed)


def test_negatives_take_no_part_in_the_gradient():
    ids, word_ids, _, at, text, image = draw_case(5)
    text.requires_grad_()
    written = synthesise_negatives(
        ids, word_ids, at, text, VOCABULARY, filters=[WordFilter(image, 0.1)]
    )
    assert not written.input_ids.requires_grad and not written.removed.requires_grad


def test_a_word_that_is_impossible_is_no_reason_to_write_nothing():
    """The student may give the original nothing of its own, as early in training."""
    logits = torch.tensor([[-torch.inf, 0.5, -torch.inf], [1.0, -torch.inf, 0.0]])
    plausible = WordFilter(logits, 0.1).plausible(torch.tensor([0, 0]))
    assert plausible.tolist() == [[False, True, False], [True, False, True]]


def test_each_filter_may_reject():
    ids, word_ids, _, at, text, image = draw_case(3, rate=1.0)
    teacher = torch.randn(image.shape, generator=torch.Generator().manual_seed(5)) * 3
    original = ids.flatten()[at]
    filters = [WordFilter(image, 0.5), WordFilter(teacher, 0.1)]
    rejected = filters[0].plausible(original) | filters[1].plausible(original)
    for seed in range(20):
        torch.manual_seed(seed)
        written = synthesise_negatives(
            ids, word_ids, at, text, VOCABULARY, filters=filters, min_p=0.0
        )
        changed = written.changed.flatten()[at]
        new = written.input_ids.flatten()[at]
        assert changed.any()
        assert not rejected.gather(1, new[:, None])[:, 0][changed].any()
