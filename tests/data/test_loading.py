import io
import logging
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import replace

import datasets
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vilta.config import DataConfig
from vilta.data import samples
from vilta.data.collate import PairCollator
from vilta.data.loading import evaluation_loader, training_loader
from vilta.data.mixture import Mixture
from vilta.data.order import sample_at
from vilta.data.samples import BadData, PairDataset, fingerprint
from vilta.decoding import decode_pixels

WORDS = ["a", "red", "green", "blue", "big", "small", "ball"]
WORDS += ["cube", "cone", "on", "under", "near", "the", "sits"]


def png(color, side=24):
    image = Image.linear_gradient("L").resize((side, side + 6))
    image = Image.merge("RGB", [image.point(lambda v, c=c: (v + c) % 256) for c in color])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def make_table(count=23, broken=(), empty=()):
    rows = {
        "image": [
            {"bytes": b"<html>404</html>" if i in broken else png((i, 2 * i, 3 * i)), "path": None}
            for i in range(count)
        ],
        "captions": [
            [" ", ""]
            if i in empty
            else [" ".join(WORDS[(i + j + k) % 14] for k in range(2 + (i + j) % 7)) for j in (0, 1)]
            for i in range(count)
        ],
        "image_id": [f"picture {i}" for i in range(count)],
        "source": [f"test/{i}.png" for i in range(count)],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    model = models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def mask_some(input_ids, word_ids, noise):
    """A stand-in for the objective: every token of a word whose number is small."""
    selected = (noise[..., 0] < 0.3) & (word_ids >= 0)
    return input_ids.masked_fill(selected, 4), selected


CONFIG = DataConfig(image_size=16, augmentation="crop-flip", max_text_tokens=12)


def make_dataset(train=True, config=CONFIG, **table):
    return PairDataset(make_table(**table), config, 7, train, "test")


def make_mixture():
    return Mixture([make_dataset(count=7), make_dataset(count=4)], [1.0, 2.5], 3)


def batches(tokenizer, dataset=None, **settings):
    dataset = dataset or make_dataset()
    collator = PairCollator(tokenizer, 12, mask_some, 7)
    settings = {"batch_size": 4, "steps": 9, "seed": 7} | settings
    return list(training_loader(dataset, collator, **settings))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        assert left.names == right.names
        for name in ("pixel_values", "input_ids", "masked_input_ids", "masked_positions"):
            assert torch.equal(getattr(left, name), getattr(right, name)), name


def flat(steps):
    return [batch for step in steps for batch in step]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_for_any_number_of_workers(tokenizer, workers):
    assert_same(flat(batches(tokenizer)), flat(batches(tokenizer, workers=workers)))


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_a_cache_of_decoded_images_changes_no_batch(tokenizer, monkeypatch, augmentation):
    config = replace(CONFIG, augmentation=augmentation)
    expected = flat(batches(tokenizer, make_dataset(config=config)))
    decoded = []

    def decode(data, short_side):
        decoded.append(data)
        return decode_pixels(data, short_side)

    monkeypatch.setattr(samples, "decode_pixels", decode)
    cached = make_dataset(config=replace(config, cache=True))
    assert_same(flat(batches(tokenizer, cached)), expected)
    assert len(decoded) == len(cached) < sum(len(batch) for batch in expected)


@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_loader_processes_leave_stop_requests_to_the_main_process(tokenizer, request_to_stop):
    collator = PairCollator(tokenizer, 12, mask_some, 7)
    steps = training_loader(make_dataset(), collator, batch_size=4, steps=40, seed=7, workers=2)
    found = 0
    for _ in steps:
        found += 1
        workers = multiprocessing.active_children()
        assert found > 20 or workers
        for worker in workers:
            os.kill(worker.pid, request_to_stop)
    assert found == 40


@pytest.mark.parametrize("start", [1, 5, 7])
def test_resume_gives_the_rest_of_the_run(tokenizer, start):
    whole = batches(tokenizer, accumulate=2)
    rest = batches(tokenizer, accumulate=2, start_step=start, workers=1)
    assert_same(flat(whole[start:]), flat(rest))


@pytest.mark.parametrize("make", [make_dataset, make_mixture])
def test_lengths_for_buckets_are_those_of_the_captions_drawn(make):
    dataset = make()
    keys = [(epoch, row) for epoch in range(3) for row in reversed(range(len(dataset)))]
    assert dataset.caption_lengths(keys) == [len(dataset[key].caption) for key in keys]


def test_buckets_keep_the_contract_and_save_padding(tokenizer):
    def read(**settings):
        return flat(batches(tokenizer, bucket_steps=4, steps=12, **settings))

    whole = read()
    assert_same(whole, read(workers=2))
    assert_same(whole[5:], read(start_step=5))
    assert_same(whole[8:], read(start_step=8, workers=1))
    plain = flat(batches(tokenizer, steps=12))
    assert Counter(n for b in whole for n in b.names) == Counter(n for b in plain for n in b.names)
    assert sum(b.input_ids.numel() for b in whole) < sum(b.input_ids.numel() for b in plain)


def test_ranks_share_the_micro_batches_of_one_process(tokenizer):
    alone = batches(tokenizer, accumulate=4, steps=3)
    ranks = [
        batches(tokenizer, accumulate=2, steps=3, rank=rank, world_size=2) for rank in range(2)
    ]
    for step, together in enumerate(alone):
        assert_same(together, ranks[0][step] + ranks[1][step])


def test_an_epoch_holds_every_row_once_and_epochs_differ(tokenizer):
    names = [n for b in flat(batches(tokenizer, batch_size=23, steps=2)) for n in b.names]
    assert sorted(names[:23]) == sorted(names[23:]) == sorted(f"test#{i}" for i in range(23))
    assert names[:23] != names[23:]


def test_position_gives_epoch():
    assert sample_at(1, 10, 37)[0] == 3
    assert sorted(sample_at(1, 10, p)[1] for p in range(30, 40)) == list(range(10))


def test_captions_and_crops_change_between_epochs():
    dataset = make_dataset()
    seen = [dataset[epoch, 3] for epoch in range(12)]
    assert len({s.caption for s in seen}) == 2
    assert any(not torch.equal(seen[0].pixels, s.pixels) for s in seen[1:])
    again = make_dataset()[5, 3]
    assert torch.equal(again.pixels, seen[5].pixels) and again.caption == seen[5].caption


def test_a_row_does_not_depend_on_its_neighbours(tokenizer):
    dataset, collator = make_dataset(), PairCollator(tokenizer, 12, mask_some, 7)
    samples = [dataset[2, i] for i in range(12)]
    together = collator(samples)
    offset = 0
    for row, sample in enumerate(samples):
        alone = collator([sample])
        length = alone.input_ids.shape[1]
        for name in ("input_ids", "masked_input_ids", "word_ids"):
            mine = getattr(together, name)[row]
            assert torch.equal(mine[:length], getattr(alone, name)[0])
        assert (together.word_ids[row, length:] == -1).all()
        here = together.masked_positions - row * together.input_ids.shape[1]
        inside = here[(here >= 0) & (here < together.input_ids.shape[1])]
        assert torch.equal(inside, alone.masked_positions)
        offset += len(inside)
    assert offset == len(together.masked_positions) > 0


def test_words_stay_whole_and_unknown_words_count_as_special(tokenizer):
    samples = [make_dataset()[0, 0]]
    caption = "balls zebra red"
    batch = PairCollator(tokenizer, 12, None, 0)([replace(samples[0], caption=caption)])
    assert batch.word_ids[0].tolist() == [-1, 0, 0, -1, 2, -1]
    assert len(batch.masked_positions) == 0
    assert torch.equal(batch.masked_input_ids, batch.input_ids)


def test_captions_that_read_the_same_are_the_same_caption(tokenizer):
    """Whatever their blanks, padding and ends that are cut away; other words make another."""
    captions = ["a red ball", "a  red ball", "a red ball on", "a red ball on the", "a red cube"]
    sample = make_dataset()[0, 0]
    batches = [[replace(sample, caption=caption) for caption in captions]]
    batches += [[sample] for sample in batches[0]]
    collate = PairCollator(tokenizer, 6, mask_some, 0)  # two of them special
    together, *alone = [collate(batch).caption_ids.tolist() for batch in batches]
    assert [together.index(caption) for caption in together] == [0, 0, 2, 2, 4]
    assert [caption for [caption] in alone] == together


def test_slow_tokenizer_is_refused():
    class Slow(PreTrainedTokenizerBase):
        is_fast = False

    with pytest.raises(ValueError, match=r"Slow knows no word borders; use .* fast tokenizer"):
        PairCollator(Slow.__new__(Slow), 12, None, 0)


def test_evaluation_reads_every_row_once_in_order(tokenizer):
    dataset = make_dataset(train=False)
    collator = PairCollator(tokenizer, 12, mask_some, 0)
    loader = evaluation_loader(dataset, collator, batch_size=5)
    first, again = list(loader), list(loader)
    assert_same(first, again)
    assert [n for b in first for n in b.names] == [f"test#{i}" for i in range(23)]
    assert len(first) == len(loader) == 5 and len(first[-1]) == 3
    assert_same(first, list(evaluation_loader(dataset, collator, batch_size=5, workers=2)))


def test_nothing_is_warned_of_on_one_core(tokenizer, monkeypatch, recwarn):
    monkeypatch.setattr(torch._utils, "cpu_count", lambda: 1)
    collator = PairCollator(tokenizer, 12, mask_some, 0)
    list(evaluation_loader(make_dataset(train=False), collator, batch_size=23, workers=2))
    assert not [each for each in recwarn if "worker" in str(each.message)]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_replaced_counted_and_named(tokenizer, workers, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = make_dataset(broken=(3,), empty=(5,))
        found = flat(batches(tokenizer, dataset, batch_size=23, steps=2, workers=workers))
    assert [len(b) for b in found] == [23, 23]
    assert not {"test#3", "test#5"} & {n for b in found for n in b.names}
    assert dataset.counts == {"read": 46 + dataset.counts["bad"], "bad": dataset.counts["bad"]}
    assert dataset.counts["bad"] >= 4
    if not workers:  # elsewhere the log is the loader process's
        assert "test#3 (test/3.png): not an image" in caplog.text
        assert "test#5 (test/5.png): no caption" in caplog.text
    replaced = make_dataset(broken=(3,), empty=(5,))
    assert_same(found, flat(batches(tokenizer, replaced, batch_size=23, steps=2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_stay_in_evaluation_with_a_blank_image(tokenizer, workers, caplog):
    dataset = make_dataset(train=False, broken=(3,), empty=(5,))
    collator = PairCollator(tokenizer, 12, mask_some, 0)
    loader = evaluation_loader(dataset, collator, batch_size=23, workers=workers)
    for batch in (*loader, *loader):
        assert list(batch.names) == [f"test#{i}" for i in range(23)]
        blank = (batch.pixel_values == samples.BLANK).flatten(1).all(dim=1)
        assert blank.nonzero().flatten().tolist() == [3, 5]
        whole = next(iter(evaluation_loader(make_dataset(train=False), collator, batch_size=23)))
        assert torch.equal(batch.pixel_values[~blank], whole.pixel_values[~blank])
        words = [tokenizer.decode(b.input_ids[3], skip_special_tokens=True) for b in (batch, whole)]
        assert words[0] == words[1] != ""
        assert tokenizer.decode(batch.input_ids[5], skip_special_tokens=True) == ""
    assert dataset.blanks == 2
    if not workers:  # elsewhere the log is the loader process's
        assert "test#3 (test/3.png): not an image" in caplog.text
        assert "shown as a blank image" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stops_at_the_first_bad_sample_with_one_line(tokenizer, workers):
    dataset = make_dataset(broken=(3,), config=replace(CONFIG, strict=True))
    with pytest.raises(BadData) as caught:
        batches(tokenizer, dataset, batch_size=23, steps=1, workers=workers)
    assert str(caught.value).startswith("bad sample test#3 (test/3.png): not an image")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_stop_the_run(tokenizer, workers):
    dataset = make_dataset(broken=range(4))
    with pytest.raises(BadData, match=r"^21 of \d+ samples are bad.*vilta pack[^\n]*$"):
        batches(tokenizer, dataset, steps=100, workers=workers)


def test_only_bad_samples_end_rather_than_hang():
    with pytest.raises(BadData):
        make_dataset(broken=range(3), count=3)[0, 0]


def test_missing_column_and_empty_table_are_named():
    with pytest.raises(ValueError, match="column 'captions' is missing"):
        PairDataset(make_table().remove_columns("captions"), CONFIG, 0, True, "mine")
    with pytest.raises(ValueError, match="mine: the data are empty"):
        PairDataset(make_table().select([]), CONFIG, 0, True, "mine")


def test_fingerprint_follows_the_content(tmp_path):
    table = make_table()
    table.save_to_disk(str(tmp_path / "t"))
    assert fingerprint(table) == fingerprint(datasets.load_from_disk(str(tmp_path / "t")))
    assert fingerprint(table) != fingerprint(make_table(count=22))
    assert fingerprint(table) != fingerprint(make_table(broken=(2,)))
