"""What data are to a pre-training run that is measured on them."""

import pytest

from vilta.config import DataConfig
from vilta.config.tools import PackConfig
from vilta.data.examples import read_pairs
from vilta.data.pack.packing import pack
from vilta.tasks.held_out import CHOSEN, TRAINED, role_in_pretraining

TRAIN, VAL = "scenes:5?seed=0&size=32", "scenes:3?seed=1&size=32"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "train"
    pack(TRAIN, PackConfig(out=str(out)))
    return str(out)


def test_a_pre_training_run_says_what_it_has_seen(packed):
    run = DataConfig(train=packed, val=VAL)

    def role(data, run=run):
        return role_in_pretraining(read_pairs(data, ""), run)

    assert (role(packed), role(VAL)) == (TRAINED, CHOSEN)
    assert role(TRAIN).startswith("5 of these were trained on")
    assert role("scenes:4?seed=2&size=32") == "test"
    unpacked = DataConfig(train=TRAIN)
    assert role(TRAIN, unpacked) == TRAINED
    assert role("scenes:4?seed=2&size=32", unpacked).startswith("test, as far as can be told")
