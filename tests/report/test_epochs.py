"""The log of a run, summed up epoch by epoch."""

import pytest

from vilta.report.epochs import COLUMNS, by_epoch, epoch_table

LOG = [
    {"step": 10, "epoch": 0.5, "negatives/share": 0.2, "negatives/synonyms": None},
    {"step": 20, "epoch": 1.0, "negatives/share": 0.4, "negatives/synonyms": 0.1},
    {"step": 25, "epoch": 1.25, "negatives/share": 0.6, "negatives/synonyms": 0.1},
    {"step": 40, "epoch": 2.0, "negatives/share": 1.0, "negatives/synonyms": 0.3},
]


def test_lines_count_by_the_steps_they_cover():
    found = by_epoch(LOG)
    assert found[1] == pytest.approx({"negatives/share": 30, "negatives/synonyms": 10})
    mean = (5 * 0.6 + 15 * 1.0) / 20
    assert found[2] == pytest.approx({"negatives/share": 100 * mean, "negatives/synonyms": 25})


def test_a_table_has_a_row_for_each_epoch():
    table = epoch_table(LOG)
    assert table.head[0] == "epoch" and len(table.head) == 1 + len(COLUMNS)
    assert [row[:2] for row in table.rows] == [("1", "30.0"), ("2", "90.0")]
    assert table.rows[0][2] == "-", "nothing was filtered"


def test_without_negatives_or_epochs_there_is_no_row():
    assert epoch_table([{"step": 10, "epoch": 0.5, "loss": 1.0}]).rows == []
    assert epoch_table([{"step": 10, "negatives/share": 0.5}]).rows == []
