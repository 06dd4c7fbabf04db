"""A comparison on a few scenes: planned, trained, measured, resumed and reported."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from tiny_encoders import IMAGE, train_text_encoder

from vilta.ablation import probe
from vilta.ablation.arms import arm_settings
from vilta.ablation.grid import (
    ArmPlan,
    Plan,
    another_seed,
    cells,
    load_plan,
    run_settings,
    save_plan,
)
from vilta.ablation.probe import build_task, phases, probe_arm
from vilta.ablation.records import read_records
from vilta.ablation.runner import Runner
from vilta.ablation.start import differences, start_hashes
from vilta.ablation.suite import Suite, read_items
from vilta.ablation.summary import summarise
from vilta.ablation.tuning import trial_job, trial_settings, trials
from vilta.cli import run as command_line
from vilta.commands import ablate
from vilta.config import ObjectiveConfig, PretrainConfig
from vilta.config.ablate import MEASURES, AblateConfig
from vilta.config.ranges import check_config
from vilta.config.shipped import FOLDER
from vilta.config.yaml_file import load_yaml, save_yaml
from vilta.report.comparison import comparison_page
from vilta.report.comparison_prose import setup
from vilta.report.comparison_text import comparison_markdown
from vilta.scenes import draw, make_scene
from vilta.training.folder import METRICS, log_lines

TRAIN, VAL = "scenes:16?seed=0&size=32", "scenes:6?seed=1&size=32"
BASE = {
    "data": {"train": TRAIN, "val": VAL, "image_size": 32, "workers": 0, "max_text_tokens": 32},
    "model": {
        "fusion": "cross-attention", "fusion_layers": 1, "fusion_width": 16, "fusion_heads": 2,
        "contrastive_width": 8,
    },
    "optimization": {
        "batch_size": 8, "lr": 1e-3, "precision": "float32", "schedule": "constant-cooldown",
    },
    "run": {"device": "cpu", "log_every": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    text = train_text_encoder(folder / "text", TRAIN)
    (folder / "image.json").write_text(json.dumps(IMAGE))
    encoders = {"image": str(folder / "image.json"), "text": text}
    base = BASE | {"model": BASE["model"] | encoders}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    return AblateConfig(
        base=str(folder / "base.yaml"),
        arms=("meter", "vilta"),
        seeds=(0, 1),
        amount=48.0,
        evaluations=3,
        images=5,
        edits="scenes:4?seed=31&size=32",
        planned=("vilta > meter on edits/accuracy",),
        keep="records",
        out=str(folder / "out"),
    )


@pytest.fixture(scope="module")
def compared(config):
    """All parts of the comparison in this process, in the order of the command."""
    out = ablate.Path(config.out)
    out.mkdir()
    save_yaml(config, out / "ablate.yaml")
    parts = ["probe"]
    for cell in cells(config):
        parts += [f"train {cell.name}", f"measure {cell.name}"]
    for part in parts:
        ablate.run(replace(config, part=part))
        if part.startswith("measure"):
            ablate.finish(config, next(c for c in cells(config) if part.endswith(c.name)))
    found = ablate.run(config)  # all is done: only the report is left
    assert found["finished"] == {"meter": [0, 1], "vilta": [0, 1]} and "curves" not in found
    return out


def test_the_report_has_every_arm_and_seed(compared, config):
    summary = json.loads((compared / "report.json").read_text())
    assert summary["finished"] == {"meter": [0, 1], "vilta": [0, 1]}
    assert (summary["missing"], summary["unequal_starts"]) == ([], {})
    assert summary["starts_compared"] == [0, 1]
    assert summary["planned"][0]["found"]["seeds"] == 2
    measures = summary["measures"]
    wanted = {
        "retrieval/mean_recall", "edits/accuracy", "edits/paraphrases_accepted",
        "edits/accuracy_wrong_image", "masked_words/with_image", "corrupted/jpeg-3/edits",
        "corrupted/occlusion-1/retrieval", "synonyms/synonym", "synonyms/wrong",
    }  # fmt: skip
    assert wanted <= measures.keys()
    assert set(MEASURES) <= measures.keys(), "what can be planned is measured"
    check_config(replace(config, planned=tuple(f"vilta > meter on {name}" for name in measures)))
    for row in (row for row in measures.values() if "meter" in row):  # it has no contrast
        values = row["meter"]["values"].values()
        assert row["meter"]["mean"] == pytest.approx(sum(values) / 2)
    costs = summary["cost"]
    assert {arm: cost["samples"] for arm, cost in costs.items()} == {"meter": 48, "vilta": 48}
    assert costs["vilta"]["flops"] > costs["meter"]["flops"] > 0
    page = (compared / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert (compared / "report.md").read_text().startswith("# Comparison: meter, vilta\n\n")
    assert "<h2>On the way</h2>" in page and "Time to the final score" in page
    once = summary | {"about": summary["about"] | {"evaluations": 1}}
    for made in (comparison_page(once, {}), comparison_markdown(once)):
        assert "measured once, at its end" in made and "Mean height of the curve" not in made
        assert "On the way" not in made and "For the same cost" not in made
    parts = {0: ["crops"], 1: ["crops"], 2: ["order", "crops"]}
    said = " ".join(setup(summary | {"unequal_starts": parts}))
    assert "From seed 0, 1 the arms did NOT start alike: crops differ. From seed 2 " in said


def test_one_arm_alone_has_a_report(compared, config, tmp_path):
    """As of a comparison that was stopped after its first run."""
    copy = shutil.copytree(compared, tmp_path / "copy")
    ablate.run(replace(config, out=str(copy), arms=("vilta",), baseline="vilta", planned=()))
    for name in ("report.html", "report.md"):
        text = (copy / name).read_text()
        assert "At the end of training" in text and "Arm by arm" not in text


def test_the_command_named_next_adds_a_seed(compared, config, capsys):
    ablate.run(config)
    *_, last = capsys.readouterr().err.splitlines()
    vilta, *words = shlex.split(last.removeprefix("next: "))
    assert vilta == "vilta" and words[-4:] == ["--seeds", "0", "1", "2"]
    command_line([*words, "--part", "report"])
    assert json.loads((compared / "report.json").read_text())["about"]["seeds"] == [0, 1, 2]
    ablate.run(config)


def test_the_seed_named_next_was_not_tuned_on(config):
    for tune_seed, another in ((1000, 2), (2, 3)):
        given = replace(config, tune=("lr=1e-3/3e-3",), tune_seed=tune_seed)
        assert another_seed(given) == another
        check_config(replace(given, seeds=(*given.seeds, another)))


def test_each_run_is_measured_where_it_should_be(compared, config):
    records = read_records(config, load_plan(config))
    for arm in config.arms:
        for record in records.finished(arm).values():
            assert [point.cost["samples"] for point in record.points] == [16, 32, 48]
            last = record.points[-1].metrics
            for name in ("retrieval/mean_recall", "edits/accuracy", "masked_words/with_image"):
                assert record.metrics[name] == pytest.approx(last[name], abs=1e-3)
            assert len(record.items) == len(records.items) == len(record.items_wrong_image)


def test_the_records_are_all_that_is_kept_and_all_that_is_needed(compared, config, capsys):
    for cell in cells(config):
        kept = {path.name for path in cell.run.iterdir()}
        assert kept == {"config.yaml", "metrics.jsonl"}
        assert cell.measured
        assert ablate.job_of(config, cell).commands == []
    before = (compared / "report.json").read_text()
    ablate.run(replace(config, part="report"))
    assert (compared / "report.json").read_text() == before


def test_another_budget_is_another_comparison(compared, config):
    with pytest.raises(ValueError, match=r"amount 48\.0, not 96\.0; choose another --out"):
        ablate.run(replace(config, amount=96.0))


def test_what_is_refused_changes_nothing(tmp_path):
    """The settings of the comparison stay those that it goes on with."""
    begun = AblateConfig(base="demo", amount=48.0, out=str(tmp_path))
    planned = Plan(
        budget="samples", amount=48.0, evaluations=10, precision="float32", device="cpu", arms={}
    )
    pace = ArmPlan(steps=1, batch=1, starts=(0,), seconds=(1.0,), flops=(1.0,), settings="other")
    for plan, asked, message in (
        (planned, replace(begun, amount=96.0), r"amount 48\.0, not 96\.0"),
        (replace(planned, arms={"meter": pace}), begun, "settings of meter are not those"),
    ):
        save_plan(begun, plan)
        save_yaml(begun, tmp_path / "ablate.yaml")
        before = (tmp_path / "ablate.yaml").read_text()
        with pytest.raises(ValueError, match=message):
            ablate.run(asked)
        assert (tmp_path / "ablate.yaml").read_text() == before


def test_items_can_be_fewer(config, tmp_path):
    fresh = replace(config, out=str(tmp_path))
    every = [row["id"] for row in read_items(fresh).rows]
    some = [row["id"] for row in read_items(replace(fresh, edit_items=5)).rows]
    assert len(every) == 12
    assert some == [every[i] for i in (0, 2, 4, 7, 9)]
    assert len(read_items(replace(fresh, edit_items=99)).rows) == 12


def test_other_items_are_another_comparison(config, tmp_path):
    """Arms or seeds that are added would be measured on what the others were not."""
    edits, out = tmp_path / "edits.csv", tmp_path / "out"

    def write(colour, count=3):
        rows = [f"{i}.png,a {colour} ball,a blue ball" for i in range(count)]
        edits.write_text("\n".join(["image,caption,edit", *rows]))

    for i in range(4):
        Image.fromarray(draw(make_scene(31, i), 32)).save(tmp_path / f"{i}.png")
    write("red")
    begun = replace(config, out=str(out), edits=str(edits), arms=("meter",), planned=(),
                    amount=8.0, evaluations=1, corruptions=False)  # fmt: skip
    out.mkdir()
    ablate.run(replace(begun, part="probe"))
    ablate.run(replace(begun, part="train meter/seed-0"))
    before = {path: path.read_bytes() for path in (out / "plan.json", out / "items.json")}
    left = [
        replace(begun, part="measure meter/seed-0"),
        replace(begun, part="train meter/seed-1"),
        replace(begun, arms=("meter", "vilta"), part="probe"),
    ]
    for change in (("green",), ("red", 4)):
        write(*change)
        for asked in left:
            with pytest.raises(ValueError, match=r"items of .*edits\.csv are not .*another --out"):
                ablate.run(asked)
    assert before == {path: path.read_bytes() for path in before}
    write("red")
    for asked in left[::2]:
        ablate.run(asked)
    assert (out / "items.json").read_bytes() == before[out / "items.json"]


def test_what_is_left_to_do_of_a_run(compared, config, tmp_path):
    fresh = replace(config, out=str(tmp_path), tasks=("scenes/snli-ve",))
    cell = cells(fresh)[0]
    train, measure, tune = ablate.job_of(fresh, cell).commands
    assert train[-2:] == ["--part", "train meter/seed-0"]
    assert measure[-1] == "measure meter/seed-0"
    assert tune[3:7] == ["finetune", "scenes/snli-ve", "--from", str(cell.run)]
    (cell.run / "model").mkdir(parents=True)
    (cell.run / "model/config.json").write_text("{}")
    assert ablate.job_of(fresh, cell).commands == [measure, tune]


def test_all_shipped_arms_start_alike(config):
    arms = sorted(path.stem for path in (FOLDER / "ablate").glob("*.yaml"))
    starts = {}
    for arm in arms:
        settings = arm_settings(config, arm)
        starts[arm] = start_hashes(build_task(settings), settings)
    assert len(starts) >= 9
    assert differences(starts) == []


def test_a_different_start_is_seen(config):
    settings = arm_settings(config, "vilta")
    plain = start_hashes(build_task(settings), settings)
    other = replace(settings, run=replace(settings.run, seed=1))
    starts = {"a": plain, "b": start_hashes(build_task(other), other)}
    (said,) = differences(starts)
    assert said.startswith("pixels, captions, masks, initial weights of ") and said.endswith(
        " in b"
    )
    assert "vilta.fusion" in said
    scheme = arm_settings(config, "vilta+mask_rate=0.5")
    starts["b"] = start_hashes(build_task(scheme), scheme)
    assert differences(starts) == ["masks in b"]
    starts = {"vilta": plain, "c": plain} | starts
    assert differences(starts) == ["masks in b"]
    separate = arm_settings(config, "vilta+word_head=separate")
    starts["b"] = start_hashes(build_task(separate), separate)
    for said in differences(starts):
        assert said.endswith(" in b") and "vilta." not in said


def test_a_run_goes_on_where_it_was_stopped(config, compared, tmp_path, monkeypatch):
    """Killed after its first evaluation, a run ends with the curve of one that was not."""
    whole = replace(config, out=str(tmp_path / "out"), arms=("vilta",), baseline="vilta",
                    planned=(), seeds=(0,), corruptions=False)  # fmt: skip
    ablate.Path(whole.out).mkdir()
    ablate.run(replace(whole, part="probe"))
    cell = cells(whole)[0]
    settings = run_settings(whole, load_plan(whole), cell)
    assert settings.optimization.steps == 6
    assert (settings.run.resume, settings.run.release) == ("auto", "last")

    class Killed(BaseException):
        pass

    real, calls = Suite.on_the_way, []

    def second_kills(suite):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return real(suite)

    monkeypatch.setattr(Suite, "on_the_way", second_kills)
    from vilta.training.session import Session

    step = Session.step

    def saving(session, *arguments):
        stopping = step(session, *arguments)
        if session.state.step == 3:
            session.save()
        return stopping

    monkeypatch.setattr(Session, "step", saving)
    with pytest.raises(Killed):
        ablate.run(replace(whole, part="train vilta/seed-0"))
    assert not cell.trained
    monkeypatch.setattr(Suite, "on_the_way", real)
    ablate.run(replace(whole, part="train vilta/seed-0"))
    assert cell.trained
    lines = [x for x in log_lines(cell.run / METRICS) if "evaluation" in x]
    first = [
        x for x in log_lines(ablate.Path(config.out) / "vilta/seed-0/run" / METRICS)
        if "evaluation" in x
    ]  # fmt: skip
    assert [x["step"] for x in lines] == [2, 4, 6]
    assert lines == first


class Here(Runner):
    """Does the parts in this process, one after the other, as many as it is told."""

    def __init__(self, config, most):
        super().__init__(1, 0.0, lambda _: None)
        self.config, self.most, self.done = config, most, []

    def run(self, jobs, progress):
        for job in jobs:
            for command in job.commands:
                if len(self.done) == self.most:
                    self.stop("enough")
                    return
                ablate.run(replace(self.config, part=command[-1]))
                self.done.append(command[-1])
            job.finish()
        assert progress().startswith("all ")


def test_arms_are_tuned_alike_on_pairs_kept_apart_and_trained_with_the_best(config, tmp_path):
    tuning = replace(config, out=str(tmp_path), seeds=(0,), tune=("lr=1e-3/1e-30",),
                     tune_amount=16.0, images=3)  # fmt: skip
    ablate.run(replace(tuning, part="probe"))
    first, second = Here(tuning, 3), Here(tuning, 9)
    plan = load_plan(tuning)
    left = trials(tuning, plan)
    names = [f"tune {arm}+lr={rate}/seed-1000" for arm in ("meter", "vilta")
             for rate in ("1e-3", "1e-30")]  # fmt: skip
    assert ablate.tuned(tuning, plan, first) == plan and first.done == names[:3]
    with pytest.raises(ValueError, match=r"with tune_amount 16.0, .*choose another --out"):
        load_plan(replace(tuning, tune_amount=32.0))
    tuned = ablate.tuned(tuning, load_plan(tuning), second)
    assert second.done == names[3:], "what is finished is not done again"
    assert load_plan(tuning) == tuned and trials(tuning, tuned) == []
    for trial in left:
        settings = trial_settings(tuning, plan, trial)
        assert (settings.optimization.steps, settings.run.seed) == (2, 1000)
        lines = [x for x in log_lines(trial.cell.run / METRICS) if "evaluation" in x]
        metrics = lines[-1]["evaluation"]
        assert tuned.tuning[trial.arm][trial.choice] == metrics["retrieval/mean_recall"]
        assert not any(name.startswith("edits/") for name in metrics), "these are compared on"
        assert not (trial.cell.run / "model").exists()
    for cell in cells(tuning):
        best = max(tuned.tuning[cell.arm].items(), key=lambda one: one[1])[0]
        assert run_settings(tuning, tuned, cell).optimization.lr == float(best.partition("=")[2])
    with pytest.raises(ValueError, match=r"with tune .*choose another --out"):
        load_plan(replace(tuning, tune=("lr=1e-3/2e-3",)))


def test_a_choice_that_diverges_has_the_lowest_score(config, tmp_path):
    """In its steps or in its evaluation; the others are compared all the same."""
    tuning = replace(config, out=str(tmp_path), arms=("vilta",), baseline="vilta", planned=(),
                     seeds=(0,), tune=("lr=1e20/1e-3",), tune_amount=8.0, images=3)  # fmt: skip
    ablate.run(replace(tuning, part="probe"))
    plan = load_plan(tuning)
    for amount in (8.0, 64.0):
        whole = replace(tuning, tune_amount=amount, out=str(tmp_path / f"{amount:g}"))
        save_plan(whole, plan)
        Here(whole, 1).run([trial_job(whole, trial) for trial in trials(whole, plan)], str)
        save_plan(whole, plan)
        scores = ablate.tuned(whole, plan, Here(whole, 9)).tuning["vilta"]
        assert scores["lr=1e20"] == 0 < scores["lr=1e-3"]
    none = replace(whole, tune=("lr=1e20",), out=str(tmp_path / "none"))
    save_plan(none, plan)
    with pytest.raises(ValueError, match=r"vilta diverged with each of lr=1e20: set --tune to oth"):
        ablate.tuned(none, plan, Here(none, 9))


def test_what_cannot_be_tuned_is_said(config, compared):
    plan = load_plan(config)
    with pytest.raises(ValueError, match="begun before lr=1e-3 was tuned"):
        trials(replace(config, tune=("lr=1e-3",)), plan)
    elsewhere = replace(config, out=config.out + "-new")
    with pytest.raises(ValueError, match="batch_size decides what a run costs"):
        trials(replace(elsewhere, tune=("batch_size=4/8",)), plan)
    matching = replace(elsewhere, arms=("meter", "vilta+itm_weight=0"), tune=("lr=1e-3",),
                       tune_on="retrieval/matching")  # fmt: skip
    with pytest.raises(ValueError, match=r"vilta\+itm_weight=0\+lr=1e-3 does not train matching"):
        trials(matching, plan)
    settings = arm_settings(config, "vilta")
    with pytest.raises(ValueError, match="none is left to tune on"):
        Suite(replace(config, images=6), settings, build_task(settings), tuning=True)
    settings = replace(settings, data=replace(settings.data, val=""))
    with pytest.raises(ValueError, match=r"data\.val of the base must name held-out pairs"):
        Suite(config, settings, build_task(settings))


def test_downstream_tasks_are_fine_tuned_from_each_run(config, tmp_path):
    """With the command line of the comparison, here in one process."""
    task = {
        "task": "snli-ve",
        "data": {"train": TRAIN, "val": VAL, "workers": 0},
        "optimization": {"batch_size": 8, "steps": 2, "precision": "float32"},
        "run": {"device": "cpu", "evaluate_every": 2},
    }
    (tmp_path / "entailment.yaml").write_text(yaml.safe_dump(task))
    name = str(tmp_path / "entailment.yaml")
    whole = replace(config, out=str(tmp_path / "out"), arms=("vilta",), baseline="vilta",
                    planned=(), seeds=(0,), corruptions=False, tasks=(name,))  # fmt: skip
    ablate.Path(whole.out).mkdir()
    ablate.run(replace(whole, part="probe"))
    (cell,) = cells(whole)
    ablate.run(replace(whole, part="train vilta/seed-0"))
    ablate.run(replace(whole, part="measure vilta/seed-0"))
    assert not ablate.finished(whole, cell)
    (command,) = ablate.job_of(whole, cell).commands
    command_line(command[3:])
    ablate.finish(whole, cell)
    assert ablate.finished(whole, cell)
    tuned = cell.tuned(name).with_suffix("")
    assert {path.name for path in tuned.iterdir()} == {"config.yaml", "metrics.jsonl"}
    record = read_records(whole, load_plan(whole)).finished("vilta")[0]
    ((measure, value),) = record.tasks.items()
    assert measure.startswith(f"tasks/{name}/") and 0 <= value <= 100
    assert (
        summarise(whole, load_plan(whole), read_records(whole, load_plan(whole)))["measures"][
            measure
        ]["vilta"]["mean"]
        == value
    )


def test_what_an_arm_does_not_train_is_not_measured(config, tmp_path):
    arms = ("meter", "vilta+itm_weight=0")
    whole = replace(config, out=str(tmp_path / "out"), arms=arms, planned=(), seeds=(0,))
    ablate.Path(whole.out).mkdir()
    ablate.run(replace(whole, part="probe"))
    for cell in cells(whole):
        for part in ("train", "measure"):
            ablate.run(replace(whole, part=f"{part} {cell.name}"))
    summary = ablate.run(whole)
    by_contrast = {"retrieval/contrastive", "edits/contrast/accuracy"}
    one, two = ({n for n, row in summary["measures"].items() if arm in row} for arm in arms)
    assert two - one == by_contrast
    assert not any("edits" in name for name in two - by_contrast)
    assert {"edits/accuracy", "edits/accuracy_wrong_image", "corrupted/blur-1/edits"} < one - two
    assert "edits/accuracy" not in {one["measure"] for one in summary["headlines"]["single"]}
    assert not any(summary["disagreements"].values())


def test_a_task_must_have_items_to_compare_on(config, tmp_path):
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"task": "vqa", "data": {"train": TRAIN}}))
    whole = replace(config, out=str(tmp_path / "out"), tasks=(str(tmp_path / "task.yaml"),))
    with pytest.raises(ValueError, match=r"task .*task\.yaml: data\.val must name held-out items"):
        ablate.run(whole)
    assert not (tmp_path / "out").exists()


def test_a_changed_task_is_another_comparison(compared, config, tmp_path):
    """Its results are kept under its name; a plan of an older version has no hash of it."""
    copy = shutil.copytree(compared, tmp_path / "copy")
    task = {"task": "snli-ve", "data": {"train": TRAIN, "val": VAL}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    whole = replace(config, out=str(copy), tasks=(str(tmp_path / "task.yaml"), "scenes/vqa"))
    for cell in cells(whole):
        for name in whole.tasks:
            cell.tuned(name).parent.mkdir(exist_ok=True)
            cell.tuned(name).write_text('{"metric": "accuracy", "value": 50.0}')
    older = json.loads((copy / "plan.json").read_text())
    del older["tasks"]
    (copy / "plan.json").write_text(json.dumps(older))
    ablate.run(whole)
    assert load_plan(whole).tasks.keys() == set(whole.tasks)
    ablate.run(whole)
    before = {path: path.read_bytes() for path in (copy / "ablate.yaml", copy / "plan.json")}
    for change in ({"epochs": 3}, {"run": {"release": "last"}}, {"task": "vqa"}):
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | change))
        for asked in (whole, replace(whole, part="train vilta/seed-0")):
            with pytest.raises(ValueError, match=r"task .*task\.yaml are not .*another --out"):
                ablate.run(asked)
    assert before == {path: path.read_bytes() for path in before}
    ablate.run(replace(whole, tasks=("scenes/vqa",)))  # without it the comparison goes on
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | {"run": {"out": "elsewhere"}}))
    ablate.run(whole)  # where it would write is not asked
    with pytest.raises(ValueError, match="no such config file: nowhere"):
        ablate.run(replace(whole, tasks=("nowhere.yaml",)))


def test_a_base_that_changes_meanwhile_is_seen_by_each_part(compared, config, tmp_path):
    base = yaml.safe_load(ablate.Path(config.base).read_text())
    base["optimization"]["lr"] = 2e-3
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    changed = replace(config, base=str(tmp_path / "base.yaml"))
    for part in ("train vilta/seed-0", "measure vilta/seed-0"):
        with pytest.raises(ValueError, match="settings of meter are not those"):
            ablate.run(replace(changed, part=part))


def test_the_probe_counts_phases_and_products(config):
    objective = ObjectiveConfig(mlm_start=3, itm_start=5)
    assert [start for start, _ in phases(objective)] == [0, 3, 5]
    base = arm_settings(config, "vilta+mlm_start=3+itm_start=5")
    plan, precision, _ = probe_arm(base, "")
    assert precision == "float32"
    contrast, words, matching = plan.flops
    assert 0 < contrast < words < matching
    twice = replace(base, optimization=replace(base.optimization, accumulate=2))
    assert all(a >= 2 * b for a, b in zip(probe_arm(twice, "")[0].flops, plan.flops, strict=True))
    assert torch.is_grad_enabled()


def test_the_probe_takes_a_step_with_texts_of_mean_length(config, monkeypatch):
    measured = []

    def measure(task, gradient, settings, batches):
        measured.append(batches)
        return 1.0, 1.0

    monkeypatch.setattr(probe, "_measure", measure)
    whole = arm_settings(config, "meter")
    whole = replace(
        whole,
        data=replace(whole.data, bucket_steps=15),  # all that are looked at: from short to long
        optimization=replace(whole.optimization, batch_size=2, accumulate=2),
    )
    probe_arm(whole, "")
    task = build_task(whole)
    every = probe.first_batches(task, whole, 2 * probe.LOOKED_AT)
    lengths = [batch.input_ids.shape[1] for batch in every]
    of_steps = [sum(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
    assert len(measured[0]) == 2
    off = [abs(length - sum(of_steps) / len(of_steps)) for length in of_steps]
    taken = sum(batch.input_ids.shape[1] for batch in measured[0])
    assert abs(taken - sum(of_steps) / len(of_steps)) == min(off) < max(off)


def test_arms_whose_pace_is_known_are_not_probed_again(config, tmp_path, monkeypatch):
    whole = replace(config, out=str(tmp_path / "out"))
    ablate.Path(whole.out).mkdir()
    probed = []

    def stopped_at_the_second(settings, precision):
        probed.append(precision)
        if len(probed) == 2:
            raise KeyboardInterrupt
        return probe_arm(settings, precision)

    monkeypatch.setattr(ablate, "probe_arm", stopped_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        ablate.run(replace(whole, part="probe"))
    assert list(load_plan(whole).arms) == ["meter"]
    ablate.run(replace(whole, part="probe"))
    assert set(load_plan(whole).arms) == {"meter", "vilta"}
    assert probed == ["", "float32", "float32"]


def test_moved_captions_are_trained_as_long_as_the_arm_itself(config, tmp_path):
    """They cost what the others do: what a probe of a few batches finds would differ by chance."""
    whole = replace(config, out=str(tmp_path / "out"), arms=("vilta",), baseline="vilta",
                    planned=(), budget="flops", amount=1e9, caption_noise=0.5)  # fmt: skip
    ablate.Path(whole.out).mkdir()
    ablate.run(replace(whole, part="probe"))
    plain, moved = load_plan(whole).arms.values()
    assert plain.settings != moved.settings
    assert replace(plain, settings="") == replace(moved, settings="")


def test_of_long_steps_fewer_are_timed(config, monkeypatch):
    taken = []
    monkeypatch.setattr(probe, "_seconds", lambda step, device: taken.append(step) or 12.0)
    plan, _, _ = probe_arm(arm_settings(config, "meter"), "")
    assert plan.seconds == (12.0,) and len(taken) == probe.WARM_UP + 2


def test_what_its_processes_fail_with_is_told(compared, config, tmp_path):
    broken = replace(config, out=str(tmp_path / "new"), program="nowhere.to.be.found")
    with pytest.raises(ValueError, match=r"No module named 'nowhere'|while finding module"):
        ablate.run(broken)
    shutil.copytree(compared, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/vilta/seed-0")
    with pytest.raises(
        ValueError, match=r"^runs that failed: 1, the first vilta/seed-0: "
    ) as error:
        ablate.run(replace(broken, out=str(tmp_path / "copy")))
    assert "go on with: vilta ablate" in str(error.value) and "\n" not in str(error.value)


def test_a_part_that_there_is_not(compared, config, tmp_path):
    with pytest.raises(ValueError, match="choose probe, tune, train, measure or report"):
        ablate.run(replace(config, part="rest meter/seed-0"))
    fresh = replace(config, out=str(tmp_path))
    with pytest.raises(ValueError, match="has no plan yet"):
        ablate.run(replace(fresh, part="report"))
    with pytest.raises(ValueError, match="has no plan yet"):
        ablate.run(replace(fresh, part="train meter/seed-0"))
    with pytest.raises(ValueError, match="--out must name"):
        ablate.run(replace(config, out=""))


def test_a_base_is_a_pretraining_config(config):
    settings = load_yaml(config.base, PretrainConfig)
    assert settings.data.train == TRAIN
    with pytest.raises(ValueError, match="no such config file: nowhere"):
        arm_settings(replace(config, base="nowhere"), "vilta")
