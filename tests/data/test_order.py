"""The determinism contract: which sample stands where, for any split of the work."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vilta.data.order import Buckets, TrainingOrder, hashes_of_rows, noise_for, sample_at
from vilta.seeds import derived

LENGTHS, SEEDS = st.integers(1, 40), st.integers(0, 2**40)
BUCKETS = st.sampled_from([0, 1, 3])


def caption_lengths(keys):
    """Lengths that differ from epoch to epoch, as another caption is drawn in each."""
    return [derived("length", epoch, row) % 20 for epoch, row in keys]


def global_batches(length, seed, micro, ranks, accumulate, start, steps, bucket_steps=0):
    """The global batches of a run, put together from what each rank reads."""
    orders = [
        list(
            TrainingOrder(
                partial(sample_at, seed, length),
                batch_size=micro,
                accumulate=accumulate,
                rank=rank,
                world_size=ranks,
                start_step=start,
                steps=steps,
                buckets=Buckets(bucket_steps, caption_lengths, seed) if bucket_steps else None,
            )
        )
        for rank in range(ranks)
    ]
    for step in range(steps - start):
        yield [
            key
            for order in orders
            for batch in order[step * accumulate : (step + 1) * accumulate]
            for key in batch
        ]


@given(LENGTHS, SEEDS, st.integers(1, 3), st.integers(0, 6), BUCKETS)
def test_any_split_of_a_batch_reads_the_same_samples_in_the_same_order(
    length, seed, micro, start, buckets
):
    splits = [(4, 1), (2, 2), (1, 4)]  # ranks and accumulated micro-batches
    found = [
        list(global_batches(length, seed, micro, ranks, accumulate, start, 8, buckets))
        for ranks, accumulate in splits
    ]
    assert found[0] == found[1] == found[2]


@given(LENGTHS, SEEDS, st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=5), BUCKETS)
def test_a_run_resumed_with_other_numbers_of_ranks_loses_and_repeats_nothing(
    length, seed, ranks, buckets
):
    """Each part of the run takes two steps; the global batch stays at four samples."""
    steps = 2 * len(ranks)
    found = []
    for part, count in enumerate(ranks):
        rest = global_batches(length, seed, 1, count, 4 // count, 2 * part, steps, buckets)
        found += [next(rest), next(rest)]
    assert found == list(global_batches(length, seed, 1, 1, 4, 0, steps, buckets))


@given(LENGTHS, SEEDS, st.integers(1, 5))
def test_every_epoch_holds_every_row_once(length, seed, epochs):
    keys = Counter(sample_at(seed, length, place) for place in range(epochs * length))
    assert keys == Counter((epoch, row) for epoch in range(epochs) for row in range(length))


@given(LENGTHS, SEEDS, st.integers(1, 4), st.integers(1, 5))
def test_buckets_hold_the_samples_of_their_steps_and_batches_of_one_length(
    length, seed, micro, bucket_steps
):
    plain = list(global_batches(length, seed, micro, 1, 2, 0, 2 * bucket_steps))
    ordered = list(global_batches(length, seed, micro, 1, 2, 0, 2 * bucket_steps, bucket_steps))
    for pool in range(2):
        part = slice(pool * bucket_steps, (pool + 1) * bucket_steps)
        assert Counter(chain(*plain[part])) == Counter(chain(*ordered[part]))
        batches = [b[i : i + micro] for b in ordered[part] for i in range(0, len(b), micro)]
        spans = sorted((min(x), max(x)) for x in map(caption_lengths, batches))
        assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_the_micro_batches_of_a_pool_come_in_an_order_that_is_drawn_for_it():
    """An epoch of 32 rows, each as long as its number says, is a pool of 16 micro-batches."""
    buckets = Buckets(8, lambda keys: [row for _, row in keys], seed=3)
    order = TrainingOrder(
        partial(sample_at, 3, 32),
        batch_size=2,
        accumulate=2,
        rank=0,
        world_size=1,
        start_step=0,
        steps=16,
        buckets=buckets,
    )
    places = [min(keys)[1] // 2 for keys in order]
    first, second = places[:16], places[16:]
    assert sorted(first) == sorted(second) == list(range(16))
    assert len({tuple(first), tuple(second), tuple(range(16))}) == 3


def splitmix(state: int) -> Iterator[int]:
    """The generator as its authors write it, one number at a time."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        yield z ^ (z >> 31)


@given(SEEDS, st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**62)), max_size=4))
def test_noise_belongs_to_its_key_and_a_shorter_row_begins_a_longer_one(seed, keys):
    noise = noise_for(seed, keys, 9)
    assert noise.shape == (len(keys), 9) and noise.dtype == np.float32
    for row, (epoch, index) in zip(noise, keys, strict=True):
        assert np.array_equal(noise_for(seed, [(epoch, index)], 5)[0], row[:5])
        start = next(splitmix(derived(seed, "noise") + epoch * 0x9E3779B97F4A7C15))
        start = next(splitmix(start + index * 0x9E3779B97F4A7C15))
        expected = [(z >> 40) / 2**24 for z in islice(splitmix(start), 9)]
        assert row.tolist() == expected


def test_noise_is_uniform_and_rows_are_independent():
    noise = noise_for(3, [(0, row) for row in range(4000)], 50).astype(np.float64)
    counts = np.histogram(noise, bins=100, range=(0, 1))[0] / noise.size
    assert noise.min() >= 0 and noise.max() < 1
    assert np.abs(counts - 0.01).max() < 5 * np.sqrt(0.01 / noise.size)
    for pair in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert abs(np.corrcoef(*map(np.ravel, pair))[0, 1]) < 5 / np.sqrt(noise.size)
    others = [noise_for(4, [(0, 0)], 50), noise_for(3, [(1, 0)], 50), noise_for(3, [(0, 1)], 50)]
    assert all(not np.isin(other, noise[0]).any() for other in others)


@given(st.lists(st.lists(st.integers(0, 60_000), max_size=6), min_size=1, max_size=6))
def test_rows_have_one_hash_if_they_hold_the_same(rows):
    found = []
    for length in (6, 9):
        ids = np.array([row + [1] * (length - len(row)) for row in rows], dtype=np.int64)
        mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        found.append(hashes_of_rows(ids, mask).tolist())
    assert found[0] == found[1] and min(found[0]) >= 0
    for a, x in zip(rows, found[0], strict=True):
        for b, y in zip(rows, found[0], strict=True):
            assert (a == b) == (x == y)


def test_one_two_four_three_and_one_processes_see_every_sample_once_an_epoch():
    """A run that goes on with another number of processes each time; a step has twelve samples."""
    count, done, seen = 37, 0, []
    for processes in (1, 2, 4, 3, 1):
        orders = [
            TrainingOrder(
                partial(sample_at, 5, count),
                batch_size=1,
                accumulate=12 // processes,
                rank=rank,
                world_size=processes,
                start_step=done,
                steps=done + 8,
            )
            for rank in range(processes)
        ]
        seen += [key for order in orders for [key] in order]
        done += 8
    whole = done * 12 // count  # epochs; of the last one a part was seen
    assert len(seen) == len(set(seen)) == done * 12
    for epoch in range(whole):
        assert sorted(row for e, row in seen if e == epoch) == list(range(count))
