"""The determinism contract: which sample stands where, for any split of the work."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vilta.data.order import TrainingOrder, sample_at

LENGTHS, SEEDS = st.integers(1, 40), st.integers(0, 2**40)


def global_batches(length, seed, micro, ranks, accumulate, start, steps):
    """The global batches of a run, put together from what each rank reads."""
    orders = [
        list(
            TrainingOrder(
                length,
                batch_size=micro,
                accumulate=accumulate,
                rank=rank,
                world_size=ranks,
                start_step=start,
                steps=steps,
                seed=seed,
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


@given(LENGTHS, SEEDS, st.integers(1, 3), st.integers(0, 6))
def test_any_split_of_a_batch_reads_the_same_samples_in_the_same_order(length, seed, micro, start):
    splits = [(4, 1), (2, 2), (1, 4)]  # ranks and accumulated micro-batches
    found = [
        list(global_batches(length, seed, micro, ranks, accumulate, start, 8))
        for ranks, accumulate in splits
    ]
    assert found[0] == found[1] == found[2]


@given(LENGTHS, SEEDS, st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=5))
def test_a_run_resumed_with_other_numbers_of_ranks_loses_and_repeats_nothing(length, seed, ranks):
    """Each part of the run takes two steps; the global batch stays at four samples."""
    steps = 2 * len(ranks)
    found = []
    for part, count in enumerate(ranks):
        rest = global_batches(length, seed, 1, count, 4 // count, 2 * part, steps)
        found += [next(rest), next(rest)]
    assert found == list(global_batches(length, seed, 4, 1, 1, 0, steps))


@given(LENGTHS, SEEDS, st.integers(1, 5))
def test_every_epoch_holds_every_row_once(length, seed, epochs):
    keys = Counter(sample_at(seed, length, place) for place in range(epochs * length))
    assert keys == Counter((epoch, row) for epoch in range(epochs) for row in range(length))
