"""What data are to a pre-training run that is measured on them."""

from pathlib import Path

import pytest

from vilta.config import DataConfig, PretrainConfig, RunConfig
from vilta.config.finetune import FinetuneConfig, TaskDataConfig
from vilta.config.tools import EvaluateConfig, PackConfig
from vilta.data.examples import read_pairs
from vilta.data.pack.packing import pack
from vilta.tasks.held_out import CALIBRATED, CHOSEN, TRAINED, role_in_pretraining, role_of

TRAIN, VAL = "scenes:5?seed=0&size=32", "scenes:3?seed=1&size=32"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "train"
    pack(TRAIN, PackConfig(out=str(out)))
    return str(out)


def test_a_pre_training_run_says_what_it_has_seen(packed):
    run = pretrained(train=packed, val=VAL)

    def role(data, run=run):
        return role_in_pretraining(read_pairs(data, ""), run)

    assert (role(packed), role(VAL)) == (TRAINED, CHOSEN)
    assert role(TRAIN).startswith("5 of these were trained on")
    assert role("scenes:4?seed=2&size=32") == "test"
    unpacked = pretrained(train=TRAIN)
    assert role(TRAIN, unpacked) == TRAINED
    assert role("scenes:4?seed=2&size=32", unpacked).startswith("test, as far as can be told")


def test_validation_data_are_known_by_another_path_and_in_part(packed, monkeypatch):
    run = pretrained(train="scenes:4?seed=2&size=32", val=packed)
    folder = Path(packed)
    monkeypatch.chdir(folder.parent)
    for name in (packed, folder.name, f"../{folder.parent.name}/{folder.name}", TRAIN):
        assert role_in_pretraining(read_pairs(name, ""), run) == CHOSEN


def test_nothing_was_chosen_on_validation_data_where_the_last_step_is_released(packed):
    last = RunConfig(release="last")
    run = pretrained(run=last, train=packed, val=VAL)
    assert role_in_pretraining(read_pairs(VAL, ""), run) == CALIBRATED
    data = TaskDataConfig(train=packed, val=VAL)
    tuned = FinetuneConfig(task="retrieval", data=data, run=last)
    of = EvaluateConfig(data=VAL)
    assert role_of(read_pairs(VAL, ""), tuned, of, "runs/mine") == CALIBRATED


def test_a_refusal_names_the_run(packed):
    tuned = FinetuneConfig(task="retrieval", data=TaskDataConfig(train=packed))
    with pytest.raises(ValueError, match=r"^runs/mine was trained on 5 of these images"):
        role_of(read_pairs(TRAIN, ""), tuned, EvaluateConfig(data=TRAIN), "runs/mine")


def pretrained(run=RunConfig(), **data):  # noqa: B008
    return PretrainConfig(run=run, data=DataConfig(**data))
