"""A run or a comparison that was moved is not begun anew where it was."""

import pytest

from vilta.config import PretrainConfig, RunConfig
from vilta.config.ablate import AblateConfig
from vilta.config.saved import require_its_folder


def run_in(out, resume):
    return PretrainConfig(run=RunConfig(out=str(out), resume=resume))


@pytest.fixture
def moved(tmp_path):
    """Two folders: where a run and a comparison were saved, and where they are now."""
    now = tmp_path / "now"
    now.mkdir()
    for name in ("metrics.jsonl", "plan.json"):
        (now / name).touch()
    return tmp_path / "before", now


def test_settings_that_go_on_elsewhere_are_refused_with_both_folders(moved):
    before, now = moved
    for name, config, flag in [
        ("config.yaml", run_in(before, True), "--run.out"),
        ("ablate.yaml", AblateConfig(out=str(before)), "--out"),
    ]:
        with pytest.raises(ValueError, match="was saved in") as error:
            require_its_folder(str(now / name), config, [])
        assert f"{flag} {now} goes on in this one, {flag} {before} in that" in str(error.value)
        require_its_folder(str(now / name), config, [flag])


def test_what_stands_where_it_was_saved_or_is_begun_anew_is_taken(moved):
    before, now = moved
    require_its_folder(str(now / "config.yaml"), run_in(now, True), [])
    require_its_folder(str(now / "config.yaml"), run_in(before, False), [])
    require_its_folder(str(now / "config.yaml"), run_in("", True), [])
    require_its_folder(str(now / "mine.yaml"), run_in(before, True), [])
    (now / "metrics.jsonl").unlink()
    require_its_folder(str(now / "config.yaml"), run_in(before, True), [])
