import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilta.metrics.recall import first_hit_rank, recall_at


def slow_rank(scores, relevant):
    """Sort with every wrong candidate before a relevant one of the same score."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], relevant[j]))
    hits = [place for place, j in enumerate(order) if relevant[j]]
    return hits[0] if hits else len(scores)


@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_equals_a_plain_sort(rows):
    scores = torch.tensor([[float(s) for s, _ in row] for row in rows])
    relevant = torch.tensor([[r for _, r in row] for row in rows])
    expected = [slow_rank([s for s, _ in row], [r for _, r in row]) for row in rows]
    assert first_hit_rank(scores, relevant).tolist() == expected
    for k in (1, 3, 6):
        share = 100 * sum(rank < k for rank in expected) / len(expected)
        assert recall_at(scores, relevant, (k,))[f"R@{k}"] == pytest.approx(share)


def test_constant_scores_earn_nothing():
    scores, relevant = torch.zeros(20, 20), torch.eye(20, dtype=torch.bool)
    assert recall_at(scores, relevant) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_perfect_scores_and_several_relevant_candidates():
    relevant = torch.eye(4, dtype=torch.bool).repeat_interleave(5, dim=1)
    scores = relevant.float()
    scores[:, 0] -= 9  # of five captions the best-ranked counts
    assert recall_at(scores, relevant) == {"R@1": 100.0, "R@5": 100.0, "R@10": 100.0}


def test_query_without_a_relevant_candidate_misses_at_every_k():
    scores = torch.tensor([[1.0, 2.0]])
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert first_hit_rank(scores, nothing).tolist() == [2]
    assert recall_at(scores, nothing, (1, 2)) == {"R@1": 0.0, "R@2": 0.0}


def test_unscored_pairs_do_not_count_as_hits():
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf]])
    relevant = torch.tensor([[True, False, False]])
    assert first_hit_rank(scores, relevant).tolist() == [2]


def test_a_score_that_is_not_a_number_is_no_hit():
    scores = torch.tensor([[torch.nan, 1.0], [1.0, torch.nan], [torch.nan, torch.nan]])
    relevant = torch.tensor([[True, False]] * 3)
    assert recall_at(scores, relevant, (1,))["R@1"] == 0.0
