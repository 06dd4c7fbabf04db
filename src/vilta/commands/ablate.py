"""`vilta ablate CONFIG.yaml`: methods compared, arms x seeds, with one report at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vilta.ablation.arms import arm_settings
from vilta.ablation.grid import (
    ITEMS,
    LOG,
    PLAN,
    SETTINGS,
    START,
    Cell,
    Plan,
    all_arms,
    another_seed,
    cells,
    find_cell,
    load_plan,
    plain_arm,
    require_same_arms,
    require_same_tasks,
    run_settings,
    save_plan,
    settings_hash,
    steps_for,
    task_hashes,
)
from vilta.ablation.measure import measure
from vilta.ablation.probe import probe_arm
from vilta.ablation.progress import Progress
from vilta.ablation.records import read_records
from vilta.ablation.runner import Job, Runner, end_with_parent, part_command
from vilta.ablation.start import start_hashes
from vilta.ablation.suite import Suite, as_records, read_items
from vilta.ablation.summary import summarise
from vilta.ablation.tuning import (
    chosen,
    find_trial,
    keep_score,
    trial_job,
    trial_settings,
    trials,
)
from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.config.yaml_file import read_mapping, save_yaml
from vilta.decoding import decode_image
from vilta.json_text import without_nan
from vilta.locking import only_writer
from vilta.pretraining_run import pretrain
from vilta.report.comparison import comparison_page
from vilta.report.comparison_prose import verdict
from vilta.report.comparison_text import comparison_markdown
from vilta.screen import command, notes, results, say_next
from vilta.tasks.pretraining import PretrainingTask
from vilta.training.folder import CONFIG, LOCK, METRICS, log_lines, replace_text
from vilta.training.skipping import Diverged

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"
PICTURE = 160
"""Short side of the pictures on the page, in pixels."""


def run(config: AblateConfig) -> dict[str, Any] | None:
    """Train, measure and compare all arms; goes on with what an earlier call has left.

    Returns what report.json holds, without the curves; None after a part or without a report.
    Raises ``ValueError`` in one line for anything the user can mend.
    """
    if not config.out:
        raise ValueError("--out must name the folder of the comparison")
    for arm in all_arms(config):
        arm_settings(config, arm)
    task_hashes(config)
    if config.part:
        end_with_parent()
        do_part(config)
        return None
    out = Path(config.out)
    begun = any((out / name).is_file() for name in (SETTINGS, PLAN))
    if not begun and out.exists() and any(path.name != LOCK for path in out.iterdir()):
        raise ValueError(f"{out} is not empty and is not a comparison; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / LOCK, out) as note:
        if note:
            notes.print(note)
        plan = load_plan(config)
        if plan is not None:  # before its settings are replaced: what is refused changes nothing
            require_same(config, plan)
        save_yaml(config, out / SETTINGS)
        plan = planned(config)
        runner = Runner(config.jobs, config.minutes, notes.print)
        plan = tuned(config, plan, runner)
        if not runner.failed and not runner.stopped:
            train_and_measure(config, plan, runner)
        summary = write_report(config)
    again = command("ablate", str(out / SETTINGS))
    if runner.failed:
        name, why = next(iter(runner.failed.items()))
        raise ValueError(
            f"runs that failed: {len(runner.failed)}, the first {name}: {why}; its log is "
            f"in {out}; go on with: {again}"
        )
    if runner.stopped:
        notes.print(f"stopped ({runner.stopped}); go on with: {again}")
    else:  # each seed more makes the intervals narrower
        seeds = map(str, [*config.seeds, another_seed(config)])
        say_next(command("ablate", str(out / SETTINGS), "--seeds", *seeds))
    if runner.signal:
        raise SystemExit(128 + runner.signal)  # as in shells
    return summary


def tuned(config: AblateConfig, plan: Plan, runner: Runner) -> Plan:
    """Tune the arms that are not tuned yet, where the settings ask for it; return the plan."""
    left = trials(config, plan)
    if not left:
        return plan
    settings = [trial_settings(config, plan, trial) for trial in left]
    steps = {t.cell: s.optimization.steps for t, s in zip(left, settings, strict=True)}
    notes.print(f"{len(left)} runs to tune with, {sum(steps.values()):,} steps in all")
    # Scores of other budgets are not compared, however often this is stopped.
    save_plan(config, replace(plan, tune_amount=config.tune_amount, tune_on=config.tune_on))
    runner.run([trial_job(config, trial) for trial in left], Progress(steps))
    if runner.failed or runner.stopped:
        return plan
    plan = chosen(config, plan)
    save_plan(config, plan)
    for arm in config.arms:
        notes.print(f"{arm}: {plan.choice(arm)}")
    return plan


def train_and_measure(config: AblateConfig, plan: Plan, runner: Runner) -> None:
    """Do what is left of all runs."""
    every = cells(config)
    left = [cell for cell in every if not finished(config, cell)]
    steps = {cell: plan.arms[cell.arm].steps for cell in left}
    notes.print(
        f"{len(every)} runs of {len(all_arms(config))} arms, {len(every) - len(left)} finished; "
        f"{sum(steps.values()):,} steps to come, {config.jobs} at a time"
    )
    same = partial(require_same, config, plan)
    runner.run([job_of(config, cell)._replace(check=same) for cell in left], Progress(steps))


def do_part(config: AblateConfig) -> None:
    """Do one part of the comparison in this process."""
    what, _, name = config.part.partition(" ")
    if what == "probe":
        probe(config)
        return
    if what == "report":
        write_report(config)
        return
    plan = load_plan(config)
    if plan is None:
        raise ValueError(f"{config.out} has no plan yet; start it without --part")
    require_same(config, plan)
    if what == "tune":
        trial = find_trial(config, plan, name.strip())
        settings = trial_settings(config, plan, trial)
        try:
            pretrain(settings, lambda task: Suite(config, settings, task, tuning=True).of_pairs)
        except Diverged as error:  # settings that are tried may be too bold
            notes.print(f"{error}\nits score is 0")
            keep_score(trial, 0.0)
        return
    cell = find_cell(config, name.strip())
    if what == "train":
        settings = run_settings(config, plan, cell)
        pretrain(settings, partial(measured_on_the_way, config, settings, cell))
    elif what == "measure":
        measure(config, plan, cell)
    else:
        raise ValueError(f"--part {config.part!r}: choose probe, tune, train, measure or report")


def measured_on_the_way(
    config: AblateConfig, settings: PretrainConfig, cell: Cell, task: PretrainingTask
) -> Callable[[], dict[str, float]]:
    """Note how the run starts; return what measures it on its way."""
    if not (cell.place / START).is_file():
        hashes = start_hashes(task, settings)
        cell.place.mkdir(parents=True, exist_ok=True)
        replace_text(cell.place / START, json.dumps(hashes, indent=2) + "\n")
    return Suite(config, settings, task).on_the_way


def planned(config: AblateConfig) -> Plan:
    """Return the plan of all arms; arms that it lacks are probed first, in a process of its own."""
    plan = load_plan(config)
    if plan is None or not set(all_arms(config)) <= plan.arms.keys() or not _items(config):
        notes.print("measuring the pace of each arm ...")
        command = part_command(config.program, Path(config.out) / SETTINGS, "probe")
        log = Path(config.out) / "probe.txt"
        last = "the probe ended without a word"
        with (
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
            ) as probing,
        ):
            assert probing.stdout is not None
            for line in probing.stdout:
                file.write(line)
                last = line.strip() or last
                if " a step" in line:
                    notes.print(last)
        if probing.returncode:
            raise ValueError(last.removeprefix("error: "))
        plan = load_plan(config)
    assert plan is not None
    require_same(config, plan)
    if not set(config.tasks) <= plan.tasks.keys():
        plan = replace(plan, tasks=plan.tasks | task_hashes(config))
        save_plan(config, plan)
    return plan


def require_same(config: AblateConfig, plan: Plan) -> None:
    """Raise ``ValueError`` where a file that the settings name has changed since it was planned.

    Each part asks it again: such a file may be changed while the others run.
    """
    require_same_arms(config, plan)
    require_same_tasks(config, plan)


def probe(config: AblateConfig) -> None:
    """Measure pace and FLOPs of the arms that the plan lacks, and write plan and items."""
    plan, items = load_plan(config), read_items(config)
    for arm in [config.baseline, *all_arms(config)]:
        if plan is not None and arm in plan.arms:
            continue
        settings = arm_settings(config, arm)
        known = settings_hash(settings)
        # Moved captions cost what the others do: their runs are as long as those of the arm itself.
        if plan is not None and (plain := plain_arm(config, arm)) in plan.arms:
            found = replace(plan.arms[plain], settings=known)
        else:
            settings = replace(settings, run=replace(settings.run, seed=config.seeds[0]))
            found, precision, device = probe_arm(settings, plan.precision if plan else "")
            found = replace(found, steps=steps_for(config, found), settings=known)
            plan = plan or Plan(
                budget=config.budget,
                amount=config.amount,
                evaluations=config.evaluations,
                precision=precision,
                device=device,
                arms={},
                images=config.images,
                edits=config.edits,
                edit_items=config.edit_items,
            )
        plan = replace(plan, arms=plan.arms | {arm: found})
        save_plan(config, plan)
        each = ", ".join(f"{1000 * s:.0f} ms" for s in found.seconds)
        notes.print(f"{arm}: {found.steps:,} steps of {found.batch}, {each} a step")
    replace_text(Path(config.out) / ITEMS, json.dumps(as_records(items)) + "\n")


def _items(config: AblateConfig) -> bool:
    return (Path(config.out) / ITEMS).is_file()


def finished(config: AblateConfig, cell: Cell) -> bool:
    """Whether nothing of a run is left to do."""
    return cell.measured and all(cell.tuned(task).is_file() for task in config.tasks)


def job_of(config: AblateConfig, cell: Cell) -> Job:
    """Return what is left to do of a run, part by part."""
    settings = Path(config.out) / SETTINGS
    commands: list[list[str]] = []
    if not cell.trained:
        commands.append(part_command(config.program, settings, f"train {cell.name}"))
    if not cell.measured:
        commands.append(part_command(config.program, settings, f"measure {cell.name}"))
    for task in config.tasks:
        if not cell.tuned(task).is_file():
            out = str(cell.tuned(task).with_suffix(""))
            flags = ["--from", str(cell.run), "--run.out", out, "--run.seed", str(cell.seed)]
            start = [sys.executable, "-m", config.program, "finetune", task]
            commands.append([*start, *flags, "--run.resume", "auto"])
    return Job(cell.name, commands, cell.place / LOG, partial(finish, config, cell))


def finish(config: AblateConfig, cell: Cell) -> None:
    """Keep the results of fine-tuning and drop what is not to be kept of a run."""
    for task in config.tasks:
        folder = cell.tuned(task).with_suffix("")
        if cell.tuned(task).is_file():
            continue
        lines = [line for line in log_lines(folder / METRICS) if "evaluation" in line]
        name = read_mapping(folder / CONFIG)["run"]["selection_metric"]
        content = {"metric": name, "value": lines[-1]["evaluation"][name], "task": task}
        replace_text(cell.tuned(task), json.dumps(without_nan(content)) + "\n")
    cell.prune(config.keep)


def write_report(config: AblateConfig) -> dict[str, Any] | None:
    """Write the report of what there is: a page, Markdown and JSON; return it without curves."""
    plan = load_plan(config)
    if plan is None:
        raise ValueError(f"{config.out} has no plan yet; start it without --part")
    out = Path(config.out)
    records = read_records(config, plan)
    if not any(records.finished(arm) for arm in config.arms):
        notes.print("no run is finished yet: no report")
        return None
    summary = summarise(config, plan, records)
    replace_text(out / JSON, json.dumps(without_nan(summary), indent=1) + "\n")
    replace_text(out / MARKDOWN, comparison_markdown(summary))
    replace_text(out / HTML, comparison_page(summary, pictures(config, summary)))
    for sentence in verdict(summary):
        results.print(sentence)
    notes.print(f"wrote {out / HTML}, beside it {MARKDOWN} and {JSON}")
    return {name: part for name, part in without_nan(summary).items() if name != "curves"}


def pictures(config: AblateConfig, summary: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the images of the items that the page shows; none where the data are not here."""
    wanted = {item["image"] for items in summary["disagreements"].values() for item in items}
    try:
        images = read_items(config).images
        return {key: _small(decode_image(images.read(key), PICTURE)) for key in wanted}
    except ValueError as error:
        notes.print(f"the page has no pictures: {error}")
        return {}


def _small(image: Image.Image) -> np.ndarray:
    image.thumbnail((2 * PICTURE, 2 * PICTURE))
    return np.asarray(image)
