"""What an arm's name means."""

from dataclasses import fields, is_dataclass, replace
from typing import get_type_hints

import pytest

from vilta.ablation.arms import arm_settings, difference
from vilta.ablation.grid import (
    ArmPlan,
    Plan,
    all_arms,
    as_precision,
    cells,
    find_cell,
    load_plan,
    require_same_arms,
    save_plan,
    settings_hash,
)
from vilta.ablation.tuning import find_trial
from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig, folder_name
from vilta.config.ranges import check_config

CONFIG = AblateConfig(base="demo", arms=("meter", "vilta"), out="x")
PLAN = Plan(
    budget="samples", amount=1.0, evaluations=1, precision="float32", device="cpu", arms={},
    images=200, edits="", edit_items=0,
)  # fmt: skip


def test_changes_come_one_after_the_other():
    settings = arm_settings(CONFIG, "vilta+alpha=0.7+negatives=off+data.workers=3")
    assert settings.objective.alpha == 0.7
    assert settings.objective.negatives == "off"
    assert settings.data.workers == 3
    assert arm_settings(CONFIG, "vilta-no-generated+vilta").objective.negatives == "grounded"


def test_common_changes_come_before_the_arm(tmp_path):
    (tmp_path / "mine.yaml").write_text("objective: {alpha: 0.9}\noptimization: {steps: 7}\n")
    config = AblateConfig(base="demo", common=("alpha=0.1", "lr=1e-4"), arms=("meter",))
    settings = arm_settings(config, str(tmp_path / "mine.yaml"))
    assert (settings.objective.alpha, settings.optimization.lr) == (0.9, 1e-4)
    assert settings.optimization.steps == 7


def test_difference_names_the_settings():
    one, two = (arm_settings(CONFIG, arm) for arm in ("vilta+alpha=0.7", "vilta"))
    assert difference(one, two) == {"objective.alpha": 0.7}


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("viltaa", ["'viltaa' is not a file", "meter", "vilta-no-generated"]),
        ("vilta+alhpa=1", ["unknown setting 'alhpa'"]),
        ("vilta+workers=x", ["data.workers", "a whole number"]),
        ("vilta+dropout", ["'dropout' is not a file"]),
        ("vilta+alpha=2", ["objective.alpha is 2"]),
        ("vilta+itc_weight=0", ["mlm_start needs contrast"]),
        ("vilta+alpha=[", ["cannot read the value"]),
    ],
)
def test_what_is_wrong_is_said(arm, words):
    with pytest.raises(ValueError) as error:
        arm_settings(CONFIG, arm)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("base", "arm", "problem"),
    [
        ("", "meter", "--base must name the pre-training config that the arms share"),
        ("nowhere.yaml", "meter", "^no such config file: nowhere.yaml$"),
    ],
)
def test_a_base_or_a_setting_that_is_none(base, arm, problem):
    with pytest.raises(ValueError, match=problem):
        arm_settings(replace(CONFIG, base=base), arm)


def test_names_of_runs_and_number_formats_of_a_plan():
    with pytest.raises(ValueError, match="no run 'x/seed-9'; there are meter/seed-0"):
        find_cell(CONFIG, "x/seed-9")
    assert find_cell(CONFIG, "vilta/seed-0").arm == "vilta"
    with pytest.raises(ValueError, match="there is no run 'x' left to tune"):
        find_trial(CONFIG, PLAN, "x")
    with pytest.raises(ValueError, match="the plan has no number format 'fp8'"):
        as_precision("fp8")


def test_a_setting_is_known_by_its_name_without_its_section():
    sections = [kind for kind in get_type_hints(PretrainConfig).values() if is_dataclass(kind)]
    names = [field.name for kind in sections for field in fields(kind)]
    assert len(sections) > 3 and len(names) == len(set(names))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"arms": ("vilta",)}, ["baseline 'meter' is not one of the arms"]),
        ({"arms": ("meter", "meter")}, ["arms has meter twice"]),
        ({"seeds": ()}, ["seeds is empty"]),
        ({"controls": ("blip",)}, ["controls: 'blip' is not one of the arms"]),
        ({"tune": ("lr",)}, ["tune: cannot read 'lr'; write `lr=1e-3/2e-3`"]),
        ({"tune": ("lr=1e-3,2e-3 ",)}, ["tune: cannot read"]),
        ({"tune": ("lr=1e-3",), "tune_seed": 1}, ["tune_seed 1 is one of the seeds"]),
        ({"planned": ("vilta beats meter",)}, ["cannot read 'vilta beats meter'"]),
        ({"planned": ("blip > meter on edits/accuracy",)}, ["'blip' is not one of the arms"]),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    with pytest.raises(ValueError) as error:
        check_config(AblateConfig(base="demo", **settings))
    assert all(word in str(error.value) for word in words)


def test_noise_gives_each_arm_a_second_version_and_seeds_come_in_pairs():
    config = AblateConfig(base="demo", arms=("meter", "vilta"), seeds=(3, 4), caption_noise=0.25)
    arms = all_arms(config)
    assert arms == [
        "meter",
        "vilta",
        "meter+data.caption_noise=0.25",
        "vilta+data.caption_noise=0.25",
    ]
    assert arm_settings(config, arms[2]).data.caption_noise == 0.25
    assert [cell.seed for cell in cells(config)] == [3] * 4 + [4] * 4
    assert len({cell.place for cell in cells(config)}) == 8
    assert folder_name("my arms/a b.yaml+alpha=1") == "my-arms-a-b.yaml+alpha=1"


def test_controls_are_trained_from_the_first_seeds():
    config = AblateConfig(
        base="demo", arms=("meter", "vilta", "vilta-no-filter"), seeds=(4, 5, 6, 7),
        controls=("vilta-no-filter",), control_seeds=2, caption_noise=0.5,
    )  # fmt: skip
    found = {}
    for cell in cells(config):
        found.setdefault(cell.arm, []).append(cell.seed)
    noise = "+data.caption_noise=0.5"
    few = {arm for arm in found if arm.startswith("vilta-no-filter")}
    assert few == {"vilta-no-filter", f"vilta-no-filter{noise}"}
    assert all(seeds == ([4, 5] if arm in few else [4, 5, 6, 7]) for arm, seeds in found.items())


def test_a_comparison_goes_on_only_with_what_it_was_begun_with(tmp_path):
    config = replace(CONFIG, out=str(tmp_path), edits="a.csv")
    assert load_plan(config) is None
    arms = {
        arm: ArmPlan(
            steps=10, batch=8, starts=(0,), seconds=(0.5,), flops=(2.0,),
            settings=settings_hash(arm_settings(config, arm)),
        )
        for arm in config.arms
    }  # fmt: skip
    plan = Plan(
        budget="samples", amount=config.amount, evaluations=config.evaluations,
        precision="float32", device="cpu", arms=arms, images=200, edits="a.csv", edit_items=0,
    )  # fmt: skip
    save_plan(config, plan)
    assert load_plan(config) == plan
    require_same_arms(config, plan)
    require_same_arms(replace(config, jobs=9, seeds=(7,), minutes=3.0), plan)
    for change in ({"amount": 5.0}, {"evaluations": 3}, {"edits": "b.csv"}, {"images": 9}):
        with pytest.raises(ValueError, match=f"with {next(iter(change))} .*choose another --out"):
            load_plan(replace(config, **change))
    with pytest.raises(ValueError, match="the settings of meter are not those"):
        require_same_arms(replace(config, common=("mask_rate=0.2",)), plan)
