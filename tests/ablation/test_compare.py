"""What is said of runs whose curves and scores were written by hand."""

import json
import math
from dataclasses import replace

import pytest

from vilta.ablation.budgets import areas, at_equal_cost, faster
from vilta.ablation.compare import (
    ITEM_MEASURES,
    differences,
    disagreements,
    final_measures,
    noise_losses,
    pairs_of_arms,
    planned,
)
from vilta.ablation.grid import ArmPlan, Plan, noisy, steps_for
from vilta.ablation.records import Point, Records, RunRecord
from vilta.ablation.summary import summarise
from vilta.config.ablate import AblateConfig
from vilta.json_text import without_nan
from vilta.report.comparison import comparison_page
from vilta.report.comparison_tables import share_shown
from vilta.report.comparison_text import comparison_markdown, comparison_section
from vilta.report.comparison_words import measure_name, signed
from vilta.tasks.fine_grained import Scored, fine_grained_metrics

CONFIG = AblateConfig(
    base="demo",
    arms=("meter", "vilta", "albef"),
    seeds=(0, 1),
    caption_noise=0.5,
    planned=("vilta > meter on edits/accuracy", "meter > vilta on retrieval/mean_recall"),
)
MEASURE = "retrieval/mean_recall"
ITEMS = [
    {"image": f"{i}", "texts": ["a red ball", "a blue ball", "a crimson ball"],
     "truth": [1, 0, 1], "category": "colour"}
    for i in range(40)
]  # fmt: skip


def run(arm, seed, scores, right=0, cost=1.0, noise=0.0):
    """Scores at 100, 200, ... samples; of the 40 items, the first ``right`` are answered well."""
    points = [
        Point(
            cost={"samples": 100.0 * i, "seconds": 100.0 * i * cost, "flops": 100.0 * i * cost},
            metrics={MEASURE: float(score)},
        )
        for i, score in enumerate(scores, 1)
    ]
    items = [[1.0, -1.0 if i < right else 2.0, 0.5] for i in range(40)]
    scored = [Scored([1, 0, 1], [row], row) for row in items]
    metrics = fine_grained_metrics(scored, ["kind"] * 40, ["colour"] * 40)
    final = {f"edits/{name.replace('edits_', '')}": value for name, value in metrics.items()}
    return RunRecord(
        arm=arm, seed=seed, points=points, items=items, items_wrong_image=[], tasks={},
        metrics={**final, MEASURE: float(scores[-1] - noise)},
        training={"seconds": 9.0, "device": "cpu"},
    )  # fmt: skip


def records(**runs):
    found = {name.replace("_", "+"): {r.seed: r for r in of} for name, of in runs.items()}
    return Records(runs=found, items=ITEMS, unequal={0: [], 1: []})


def example(apart=0):
    made = records(
        meter=[run("meter", s, [10, 20, 30, 40], right=10 + s) for s in (0, 1)],
        vilta=[
            run("vilta", s, [20, 40 + s, 60, 80 + apart * s], right=30 + s, cost=1.5)
            for s in (0, 1)
        ],
        albef=[run("albef", s, [5, 10, 20, 39 + 2 * s], right=10 + s) for s in (0, 1)],
    )
    made.runs[noisy("vilta", 0.5)] = {0: run("x", 0, [1, 1, 1, 80], noise=6)}
    return made


def test_what_the_items_say_is_what_the_task_reports():
    """Also where scores are 0, or items have several wrong texts, or no second true one."""
    truths = [[1, 0], [1, 0, 0, 0, 1], [1, 0, 1, 1], [1, 0, 1]]
    scores = [[2.0, 1.0], [1.0, 0.5, -1.0, -2.0, -0.5], [-1.0, -2.0, 0.5, -0.5], [0.0] * 3]
    items = [Scored(truth, [row], row) for truth, row in zip(truths, scores, strict=True)]
    metrics = fine_grained_metrics(items, ["kind"] * 4, ["colour"] * 4)
    for measure, of in ITEM_MEASURES.items():
        values = [value for pair in zip(truths, scores, strict=True) for value in of(*pair)]
        name = measure.removeprefix("edits/")
        expected = metrics["edits_rejected" if name == "rejected" else name]
        assert 100 * sum(values) / len(values) == pytest.approx(expected), measure


def test_differences_are_paired_by_seed():
    found = differences(example(), "vilta", "meter", "edits/accuracy")
    assert found["mean"] == 50
    assert found["seeds"] == 2
    assert 30 < found["low"] < 50 < found["high"] < 70
    table = final_measures(example(), CONFIG)[MEASURE]
    assert table["vilta"]["difference"]["mean"] == 40
    assert table["albef"]["values"] == {0: 39, 1: 41}
    assert "difference" not in table["meter"]


def test_times_are_shares_of_the_baselines():
    table = faster(example(), CONFIG)[MEASURE]
    shares = table["vilta"]["samples"]["by_seed"]
    assert shares[0] == 200 / 400
    assert shares[1] == pytest.approx((100 + 100 * 20 / 21) / 400)
    assert table["vilta"]["samples"]["mean"] == pytest.approx(math.sqrt(shares[0] * shares[1]))
    assert table["vilta"]["flops"]["by_seed"][0] == 1.5 * 0.5
    late = table["albef"]["samples"]  # 39 of the 40 points that are wanted in seed 0
    assert (late["reached"], late["seeds"], late["by_seed"][0]) == (1, 2, None)
    assert math.isnan(late["mean"])
    assert areas(example(), CONFIG)[MEASURE]["vilta"]["mean"] == pytest.approx((150 + 151) / 6)


def test_the_first_evaluation_is_no_extrapolation():
    quick = records(meter=[run("meter", 0, [10, 20])], vilta=[run("vilta", 0, [50, 60])], albef=[])
    found = faster(quick, CONFIG)[MEASURE]["vilta"]["samples"]
    assert (found["by_seed"], found["at_first"]) == ({0: 0.5}, 1)
    assert faster(example(), CONFIG)[MEASURE]["vilta"]["samples"]["at_first"] == 0


@pytest.mark.parametrize(
    "shares, at_first, shown",
    [
        ({0: 0.5}, 0, "0.50 [one seed]"),
        ({0: 0.25, 1: 2.0}, 0, "0.25, 2.00"),
        ({0: 0.25, 1: 0.5}, 2, "at most 0.25, 0.50"),
        ({0: 0.25, 1: None, 2: 3.0}, 1, "at most 0.25, never, 3.00"),
        ({0: None, 1: None, 2: 1.0}, 1, "never, never, at most 1.00"),
        ({0: None, 1: None}, 0, "never"),
        ({0: 0.5, 1: 0.5, 2: 0.5}, 0, "0.50 (0.50 to 0.50)"),
    ],
)
def test_a_share_of_few_seeds_is_shown_seed_by_seed(shares, at_first, shown):
    there = [share for share in shares.values() if share is not None]
    limit = 0.5 if len(shares) > 2 else math.nan
    found = {
        "mean": 0.5, "low": limit, "high": limit, "by_seed": shares,
        "reached": len(there), "seeds": len(shares), "at_first": at_first,
    }  # fmt: skip
    assert share_shown(found) == shown


def test_at_equal_cost_each_curve_is_read_off_where_the_cheapest_run_ends():
    table = at_equal_cost(example(), CONFIG)
    assert {unit: found["cost"] for unit, found in table.items()} == {
        "samples": 400, "seconds": 400, "flops": 400,
    }  # fmt: skip
    same = table["samples"]["measures"][MEASURE]  # all arms see 400 samples: their ends
    assert (same["meter"]["mean"], same["vilta"]["mean"]) == (40, 80)
    dear = table["seconds"]["measures"][MEASURE]  # vilta's third evaluation is at 450
    by_seed = [40 + s + (60 - 40 - s) * (400 - 300) / 150 for s in (0, 1)]
    assert dear["vilta"]["mean"] == pytest.approx(sum(by_seed) / 2)
    change = dear["vilta"]["difference"]
    assert change["mean"] == pytest.approx(sum(by_seed) / 2 - 40) and change["seeds"] == 2
    late = records(
        meter=[run("meter", 0, [10])], vilta=[run("vilta", 0, [50, 60], cost=1.5)], albef=[]
    )
    table = at_equal_cost(late, CONFIG)
    assert "vilta" in table["samples"]["measures"][MEASURE]
    assert "vilta" not in table["seconds"]["measures"][MEASURE], "no evaluation was so early"
    assert at_equal_cost(records(meter=[], vilta=[], albef=[]), CONFIG) == {}


def test_an_arm_is_compared_with_the_baseline_and_with_its_own_variants():
    arms = ("meter", "vilta", "vilta-no-filter", "vilta+alpha=0.7", "meter+text_mlm_weight=0.1",
            "vilta-no-filter+alpha=0.7")  # fmt: skip
    pairs = pairs_of_arms(AblateConfig(base="demo", arms=arms))
    assert pairs[:5] == [(arm, "meter") for arm in arms[1:]]
    assert pairs[5:] == [
        ("vilta", "vilta-no-filter"),
        ("vilta", "vilta+alpha=0.7"),
        ("vilta-no-filter", "vilta-no-filter+alpha=0.7"),
    ]
    two = AblateConfig(base="demo", arms=arms[1:3], baseline="vilta-no-filter")
    assert pairs_of_arms(two) == [("vilta", "vilta-no-filter")]


def test_planned_comparisons_hold_together():
    first, second = planned(example(apart=0.1), CONFIG)
    assert first["verdict"] == "holds"
    assert first["level"] == 1 - 0.05 / 2
    assert second["verdict"] == "the opposite holds"
    turned = tuple(text.replace(">", "<") for text in CONFIG.planned)
    rows = planned(example(apart=0.1), replace(CONFIG, planned=turned))
    assert [row["verdict"] for row in rows] == ["the opposite holds", "holds"]
    alike = records(
        meter=[run("meter", s, [1]) for s in (0, 1)],
        vilta=[run("vilta", s, [0], right=9) for s in (0, 1)],
        albef=[],
    )
    second = planned(alike, CONFIG)[1]
    assert second["verdict"] == "not shown", "two equal differences are no interval of no width"
    assert signed(second["found"]) == "+1.0 in each seed"
    one = records(meter=[run("meter", 0, [1])], vilta=[run("vilta", 0, [2], right=9)], albef=[])
    assert [row["verdict"] for row in planned(one, CONFIG)] == ["one seed: open"] * 2
    none = records(meter=[run("meter", 0, [1])], vilta=[], albef=[])
    assert {row["verdict"] for row in planned(none, CONFIG)} == {"not measured"}


def test_noise_is_what_an_arm_loses_itself():
    table = noise_losses(example(), CONFIG)
    assert table[MEASURE] == {"vilta": {"mean": 6, "low": pytest.approx(math.nan, nan_ok=True),
                                        "high": pytest.approx(math.nan, nan_ok=True),
                                        "seeds": 1}}  # fmt: skip


def test_disagreements_are_items_that_one_gets_right():
    found = disagreements(example(), CONFIG, "vilta")
    assert len(found) == CONFIG.examples // 2  # none that meter alone gets right
    assert {item["right"] for item in found} == {"vilta"}
    assert all(11 <= int(item["image"]) < 30 for item in found)
    assert disagreements(example(), CONFIG, "albef") == []


def test_a_budget_in_seconds_buys_steps_phase_by_phase():
    plan = ArmPlan(steps=0, batch=10, starts=(0, 50), seconds=(0.1, 0.5), flops=(1.0, 3.0))
    assert plan.cost(plan.flops, 60) == 50 + 30
    config = AblateConfig(base="demo", budget="seconds", amount=30.0, evaluations=5)
    assert steps_for(config, plan) == 50 + 50
    work = AblateConfig(base="demo", budget="flops", amount=50 + 3.0 * 40, evaluations=5)
    assert steps_for(work, plan) == 50 + 40
    short = AblateConfig(base="demo", budget="seconds", amount=2.0, evaluations=5)
    assert steps_for(short, plan) == 20
    samples = AblateConfig(base="demo", amount=1_000.0, evaluations=7)
    assert steps_for(samples, plan) == 98  # a multiple of the evaluations


def plan_of(config, **more):
    arm = ArmPlan(steps=4, batch=100, starts=(0,), seconds=(1.0,), flops=(2.0,))
    return Plan(
        budget="samples", amount=400.0, evaluations=4, precision="float32", device="a machine",
        arms=dict.fromkeys(config.arms, arm), **more,
    )  # fmt: skip


def test_the_report_says_first_what_does_not_help(tmp_path):
    plan = plan_of(CONFIG)
    summary = summarise(CONFIG, plan, example(apart=0.1))
    text = comparison_markdown(summary)
    opening = text.split("\n\n")[1]
    opposite = opening.index("meter > vilta on retrieval/mean_recall: the opposite holds")
    assert opposite < opening.index("vilta > meter on edits/accuracy: holds")
    assert "| arm | against | no difference shown in | better in |" in text
    found = summary["looked_at"]
    assert 0 < found["exclude_zero"] < found["intervals"]
    counted = f"of {found['intervals']} differences at the end of training {found['exclude_zero']}"
    assert counted in text and "2 comparisons were planned before training" in text
    assert "### After 400 FLOPs\n" in text
    assert "nothing was tuned" in text and "## What was tuned" not in text
    assert "| vilta > meter on edits/accuracy | holds |" in text
    kept = json.loads(json.dumps(without_nan(summary)))  # as report.json holds it
    assert comparison_markdown(kept) == text
    lines = comparison_section(kept, "Methods compared: x", "x.md")
    assert lines[0] == "## Methods compared: x" and lines[3].startswith("- meter > vilta")
    assert "### Noisy captions" in lines and "### For the same cost" not in lines
    page = comparison_page(summary, {})
    assert page.count("<h2>") == text.count("\n## ") + 3  # curves, disagreements, setup
    assert "<mark>blue</mark>" in page
    assert 'class="was">red' in page


def test_looked_at_afterwards_is_what_was_not_planned_and_has_an_interval_over_seeds():
    plan = plan_of(CONFIG)
    nothing = replace(CONFIG, planned=())
    every = summarise(nothing, plan, example(apart=0.1))["looked_at"]
    assert summarise(CONFIG, plan, example(apart=0.1))["looked_at"] == {
        "intervals": every["intervals"] - 2,  # one of them planned from the baseline's side
        "exclude_zero": every["exclude_zero"] - 2,
    }
    alone = example()
    del alone.runs["albef"][1], alone.runs["vilta"][1]
    found = summarise(nothing, plan, alone)["looked_at"]
    assert found == {"intervals": 0, "exclude_zero": 0}


def test_a_part_that_does_not_help_is_named_before_what_helps():
    config = AblateConfig(
        base="demo", arms=("meter", "vilta", "vilta-no-filter"), seeds=(0, 1),
        controls=("vilta-no-filter",), control_seeds=1,
    )  # fmt: skip
    made = records(
        meter=[run("meter", s, [10, 20], right=10) for s in (0, 1)],
        vilta=[run("vilta", s, [20, 40 + s], right=30) for s in (0, 1)],
    )
    made.runs["vilta-no-filter"] = {s: run("x", s, [20, 41 - s], right=30) for s in (0, 1)}
    summary = summarise(config, plan_of(config), made)
    said = comparison_markdown(summary)
    opening = said.split("\n\n")[1]
    assert "- vilta against vilta-no-filter: no difference shown in: " in opening
    against_meter = opening.splitlines()[0]
    assert against_meter.index("no difference shown in") < against_meter.index("better in")
    assert "| arm | against | no difference shown in | better in |" in said
    assert summary["missing"] == [], "a control needs no second seed"
    assert "seeds 0, 1 (fewer for vilta-no-filter)" in comparison_markdown(summary)


def test_the_report_says_what_was_tuned_and_how():
    config = AblateConfig(
        base="demo", arms=("meter", "vilta"), seeds=(0, 1), tune=("lr=1e-3/2e-3",)
    )
    scores = {
        "meter": {"lr=1e-3": 30.0, "lr=2e-3": 31.0},
        "vilta": {"lr=1e-3": 50.0, "lr=2e-3": 9.0},
    }
    plan = plan_of(config, tune=config.tune, tune_amount=200.0, tune_on=MEASURE, tuning=scores)
    summary = summarise(config, plan, example())
    assert summary["about"]["lr"] == {"meter": 2e-3, "vilta": 1e-3}
    text = comparison_markdown(json.loads(json.dumps(without_nan(summary))))
    assert "Learning rates [0.001, 0.002]" in text
    assert "2 runs of 200 samples from seed 1000" in text and "(meter lr=2e-3; vilta" in text
    assert "| lr=1e-3 | 30.0 | 50.0 (chosen) |\n| lr=2e-3 | 31.0 (chosen) | 9.0 |" in text


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        ("tasks/benchmarks/methods/vqa.yaml/accuracy", "fine-tuned, vqa: accuracy"),
        ("tasks/scenes/retrieval/mean_recall", "fine-tuned, retrieval: mean recall"),
        ("tasks/words.yml/gain/top1", "fine-tuned, words: gain/top1"),
        ("edits/accuracy", "caption above its edit"),
    ],
)
def test_measures_are_called_as_people_say(measure, name):
    assert measure_name(measure) == name
