"""Time left over phases that cost differently."""

import pytest

from vilta.training.phases import Pace, Phase

PHASES = [
    Phase(start=0, name="contrast"),
    Phase(start=10, name="masked words", cost=2.0),
    Phase(start=20, name="matching", cost=4.0),
]


def test_the_time_left_counts_what_the_phases_to_come_cost():
    pace = Pace(PHASES, steps=30)
    assert pace.left(0) == 0.0, "nothing is known yet"
    for step in range(1, 6):
        pace.add(step, 1.0)
    assert pace.left(5) == pytest.approx(5 + 10 * 2 + 10 * 4)
    for step in range(6, 11):
        pace.add(step, 1.0)
    for step in range(11, 21):
        pace.add(step, 3.0)  # dearer than expected: so will matching be
    assert pace.left(20) == pytest.approx(10 * 6)
    for step in range(21, 31):
        pace.add(step, 5.0)
    assert pace.left(29) == pytest.approx(5)


def test_a_slow_first_step_of_a_phase_is_one_of_ten():
    pace = Pace(PHASES, steps=30)
    for step in range(1, 11):
        pace.add(step, 1.0)
    assert pace.left(10) == pytest.approx(10 * 2 + 10 * 4)
    pace.add(11, 8.0)
    assert pace.left(11) == pytest.approx((9 * 2 + 10 * 4) * (1 * 8 + 9 * 2) / 20)


def test_a_run_without_phases_or_shorter_than_them():
    pace = Pace([], steps=8)
    pace.add(1, 2.0)
    assert pace.left(1) == pytest.approx(14.0) and pace.begins(1) == ""
    short = Pace(PHASES, steps=12)
    short.add(1, 1.0)
    assert short.left(1) == pytest.approx(9 + 2 * 2)


def test_what_begins_is_named():
    pace = Pace(PHASES, steps=30)
    assert [pace.begins(step) for step in (0, 9, 10, 20)] == ["", "", "masked words", "matching"]
