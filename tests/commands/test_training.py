"""The whole way on a few scenes: language model, pre-training, resumed and evaluated."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from reliability.tiny_settings import IMAGE, model_settings, text_settings, write_image_encoder
from safetensors.torch import load_file, save_file
from tiny_encoders import train_text_encoder

from vilta import pretraining_run
from vilta.commands import evaluate, pack, pretrain, pretrain_text
from vilta.config import (
    DataConfig,
    ObjectiveConfig,
    OptimizationConfig,
    PretrainConfig,
    RunConfig,
)
from vilta.config.shipped import find_shipped
from vilta.config.tools import EvaluateConfig, PackConfig
from vilta.config.yaml_file import load_yaml, save_yaml
from vilta.finished_run import load_run

TRAIN, VAL = "scenes:40?seed=0&size=32", "scenes:12?seed=1&size=32"
STEPS = 8  # 40 scenes, 8 a step: step 5 ends an epoch


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return train_text_encoder(folder / "run", TRAIN)


@pytest.fixture(scope="module")
def settings(text_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    return PretrainConfig(
        data=DataConfig(train=TRAIN, val=VAL, image_size=32, workers=0),
        model=model_settings(write_image_encoder(folder), text_model),
        objective=ObjectiveConfig(mlm_start=2, itm_start=4, filter_ratio=10.0),
        optimization=OptimizationConfig(steps=STEPS, batch_size=8, lr=1e-3),
        run=RunConfig(out=str(folder / "run"), log_every=1, save_every=1, keep=STEPS, device="cpu"),
    )


@pytest.fixture(scope="module")
def whole_run(settings):
    pretrain.run(settings)
    return settings.run.out


def lines_of(folder):
    text = Path(folder, "metrics.jsonl").read_text()
    lines = [line for line in map(json.loads, text.splitlines()) if "device" not in line]
    timed = {"seconds", "samples_per_s"}
    return {
        (line["step"], "evaluation" in line): {k: v for k, v in line.items() if k not in timed}
        for line in lines
    }


def forget_after(run, step):
    """Make a run one that was stopped at a step."""
    shutil.rmtree(run / "model")
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name.startswith("step-") and int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize(
    ("val", "why"),
    [("", "held out, as every 100th is"), ("texts.txt", "in texts.txt too")],
)
def test_captions_that_are_all_held_out_are_told(tmp_path, monkeypatch, val, why):
    """Not that there were none."""
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("A red ball.\n" + "a red ball\n" * 3)
    text = text_settings("texts.txt", tmp_path / "text")
    text = replace(text, data=replace(text.data, val=val))
    with pytest.raises(ValueError, match=f"^texts.txt: all of its captions are {why};"):
        pretrain_text.run(text)
    assert not (tmp_path / "text").exists()


def test_losses_begin_when_they_should(whole_run):
    lines = lines_of(whole_run)
    for step in range(1, STEPS + 1):
        line = lines[step, False]
        assert ("mlm" in line and line["mlm"] is not None) == (step > 2)
        assert ("itm" in line and line["itm"] is not None) == (step > 4)
        assert math.isfinite(line["loss"]) and math.isfinite(line["itc"])


def test_the_seed_decides_the_run(settings, whole_run, tmp_path):
    torch.manual_seed(99)
    for seed, same in ((settings.run.seed, True), (settings.run.seed + 1, False)):
        short = replace(settings.optimization, steps=1, warmup=0.0)
        run = replace(settings.run, out=str(tmp_path / str(seed)), seed=seed)
        pretrain.run(replace(settings, optimization=short, run=run))
        loss = lines_of(tmp_path / str(seed))[1, False]["loss"]
        assert (loss == lines_of(whole_run)[1, False]["loss"]) == same


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_resumed_run_is_the_run_that_never_stopped(settings, whole_run, tmp_path, step):
    """Contrast alone, with masked words, at the end of an epoch, and with matching."""
    out = tmp_path / "run"
    shutil.copytree(whole_run, out)
    forget_after(out, step)
    pretrain.run(replace(settings, run=replace(settings.run, out=str(out), resume=True)))
    assert lines_of(out) == lines_of(whole_run)
    expected = load_file(f"{whole_run}/model/model.safetensors")
    found = load_file(out / "model" / "model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_starts_from_another_ones_weights(settings, whole_run, tmp_path, text_model):
    """At step 0 of its own schedule; the start is not asked for again when it goes on."""
    before = shutil.copytree(whole_run, tmp_path / "before")
    run = replace(settings.run, out=str(tmp_path / "after"), log_every=1)
    started = replace(settings, model=replace(settings.model, start=str(before)), run=run)
    still = replace(settings.optimization, steps=2, lr=1e-12, weight_decay=0.0)
    pretrain.run(replace(started, optimization=still))
    expected = load_file(before / "model" / "model.safetensors")
    found = load_file(f"{run.out}/model/model.safetensors")
    moved = [k for k in expected if not torch.allclose(found[k], expected[k], atol=1e-6)]
    assert all("running" in k or "num_batches" in k for k in moved), "only statistics follow"

    shutil.rmtree(before)
    forget_after(Path(run.out), 1)
    again = replace(started, optimization=still, run=replace(run, resume=True))
    pretrain.run(again)
    resumed = load_file(f"{run.out}/model/model.safetensors")
    assert all(torch.equal(resumed[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "change",
    [
        {"fusion_layers": 2},
        {"fusion": "co-attention"},
        {"fusion_heads": 1},
        {"fusion_input": "contrastive", "fusion_width": 8},
    ],
)
def test_another_fusion_starts_above_the_encoders_of_a_run(
    settings, whole_run, tmp_path, capsys, change
):
    model = replace(settings.model, **change, start=str(whole_run))
    run = replace(settings.run, out=str(tmp_path / "run"))
    still = replace(settings.optimization, steps=1, lr=1e-12, weight_decay=0.0)
    pretrain.run(replace(settings, model=model, optimization=still, run=run))
    assert "model.start: the fusion begins anew" in capsys.readouterr().err
    before = load_file(f"{whole_run}/model/model.safetensors")
    after = load_file(f"{run.out}/model/model.safetensors")
    compared = {
        "vilta.image_projection.weight": "itc_head.image.weight",
        "vilta.text_projection.weight": "itc_head.text.weight",
    }
    below = ("vilta.text.", "vilta.vision.", "vilta.image_norm.", "itc_head.")
    same = {name: name for name in after if name.startswith(below)}
    kept = same | (compared if "fusion_input" in change else {})
    moved = [k for k, v in kept.items() if not torch.allclose(after[k], before[v], atol=1e-6)]
    assert kept and all("running" in k or "num_batches" in k for k in moved)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"train": ""}, "no data were named; --data.train"),
        ({"train": "gone"}, "no such file or folder: gone"),
        ({"val": "gone"}, "no such file or folder: gone"),
    ],
)
def test_data_are_looked_for_before_encoders_are_downloaded(settings, tmp_path, named, message):
    model = replace(settings.model, text="hub/not-downloaded")
    data, run = replace(settings.data, **named), replace(settings.run, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        pretrain.run(replace(settings, model=model, data=data, run=run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling": "mean"}, r"of another architecture \(pooling\)"),
        ({"contrastive_width": 6}, r"of another architecture \(contrastive_width\)"),
        ({"start": "text"}, "name a pre-training run"),
        ({"start": "nowhere"}, "no such folder: nowhere; vilta pretrain makes a run"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    settings, whole_run, text_model, tmp_path, change, message
):
    start = {"text": text_model, None: whole_run}.get(change.get("start"), change.get("start"))
    model = replace(settings.model, **(change | {"start": str(start)}))
    run = replace(settings.run, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        pretrain.run(replace(settings, model=model, run=run))
    assert not (tmp_path / "run").exists()


def test_a_start_that_read_other_words_or_other_pixels_is_refused(
    settings, whole_run, text_model, tmp_path
):
    text = shutil.copytree(text_model, tmp_path / "text")
    words = (text / "tokenizer.json").read_text()
    swapped = {"red": "blue", "blue": "red"}
    words = re.sub('"(red|blue)": ', lambda found: f'"{swapped[found[1]]}": ', words)
    (text / "tokenizer.json").write_text(words)
    image = tmp_path / "image.json"
    image.write_text(json.dumps(IMAGE | {"image_mean": [0.48, 0.46, 0.41]}))
    for change, message in (
        ({"text": str(text)}, "model.start and model.text have different vocabularies.*'red'"),
        ({"image": str(image)}, r"of another architecture \(image_mean\)"),
        ({"image": str(image), "fusion_layers": 2}, r"of another architecture \(image_mean\)"),
    ):
        model = replace(settings.model, **change, start=str(whole_run))
        run = replace(settings.run, out=str(tmp_path / "run"))
        with pytest.raises(ValueError, match=message):
            pretrain.run(replace(settings, model=model, run=run))
        assert not (tmp_path / "run").exists()


def test_the_albef_preset_splits_the_text_encoder_trains_and_goes_on(settings, tmp_path):
    """Half of its layers are the fusion."""
    text = text_settings(TRAIN, tmp_path / "text", lr=1e-3)
    pretrain_text.run(replace(text, model=replace(text.model, layers=2)))
    preset = load_yaml(find_shipped("albef"), PretrainConfig, settings)
    split = replace(
        preset,
        model=replace(preset.model, text=str(tmp_path / "text" / "model"), fusion_layers=1),
        objective=replace(preset.objective, queue_size=16),
        run=replace(settings.run, out=str(tmp_path / "run")),
    )
    pretrain.run(split)
    expected = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert "vilta.text.bert.encoder.layer.0.output.dense.weight" in expected
    assert "vilta.text.bert.encoder.layer.1.output.dense.weight" not in expected
    forget_after(tmp_path / "run", 5)
    pretrain.run(replace(split, run=replace(split.run, resume=True)))
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model = replace(split.model, fusion="cross-attention", start=split.run.out)
    other = replace(split, model=model, run=replace(split.run, out=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="text-layers takes layers off the text encoder"):
        pretrain.run(other)


def test_a_run_from_before_the_word_heads_goes_on_with_its_own(settings, tmp_path):
    out = tmp_path / "run"
    run = replace(settings.run, out=str(out))
    short = replace(settings.optimization, steps=2)
    old = replace(settings.model, word_head="separate")
    pretrain.run(replace(settings, model=old, optimization=short, run=run))
    saved = out / "config.yaml"
    saved.write_text(re.sub("  word_head: separate\n", "", saved.read_text()))
    weights = load_file(out / "model" / "model.safetensors")
    forget_after(out, 1)
    pretrain.run(replace(settings, optimization=short, run=replace(run, resume=True)))
    again = load_file(out / "model" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_run_over_a_stream_is_resumed_like_any_other(settings, tmp_path):
    pack.run(TRAIN, PackConfig(out=str(tmp_path / "packed"), shard_rows=9))
    assert len(list((tmp_path / "packed").glob("*.arrow"))) == 5
    data = replace(settings.data, train=f"stream:{tmp_path}/packed", val="", workers=1)
    run = replace(settings.run, out=str(tmp_path / "run"))
    pretrain.run(replace(settings, data=data, run=run))
    expected = lines_of(run.out)
    forget_after(tmp_path / "run", 3)
    resumed = replace(settings, data=data, run=replace(run, resume=True))
    halves = replace(settings.optimization, batch_size=4, accumulate=2)
    with pytest.raises(
        ValueError, match=r"batch_size 8, not optimization\.batch_size 4: some samp"
    ):
        pretrain.run(replace(resumed, optimization=halves))
    pretrain.run(resumed)
    assert lines_of(run.out) == expected


def test_a_window_of_captions_of_one_length_is_not_dealt_anew(settings, tmp_path):
    run = replace(settings.run, out=str(tmp_path / "run"))
    data = replace(settings.data, val="", bucket_steps=4)
    steps = replace(settings.optimization, steps=2)
    first = replace(settings, data=data, optimization=steps, run=run)
    pretrain.run(first)
    resumed = replace(first, run=replace(run, resume=True), optimization=replace(steps, steps=3))
    halves = replace(resumed.optimization, batch_size=4, accumulate=2)
    other, none = (replace(data, bucket_steps=number) for number in (2, 0))
    for change, now in {
        "data.bucket_steps 4, optimization.batch_size 4": {"optimization": halves},
        "data.bucket_steps 2, optimization.batch_size 8": {"data": other},
        "data.bucket_steps 0": {"data": none},
    }.items():
        with pytest.raises(
            ValueError, match=f"{change}: some samples of this epoch would"
        ) as error:
            pretrain.run(replace(resumed, **now))
        assert "\n" not in str(error.value)
    pretrain.run(resumed)


def test_a_run_does_not_go_on_with_another_teacher(settings, text_model, tmp_path):
    """Neither with another one by name, nor with one that was trained anew where it lies."""
    other = shutil.copytree(text_model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if name.endswith("LayerNorm.weight"))
    save_file(weights | {name: 2 * weights[name]}, other / "model.safetensors", {"format": "pt"})
    out = tmp_path / "run"
    run = replace(settings.run, out=str(out))
    first = replace(settings, optimization=replace(settings.optimization, steps=2), run=run)
    pretrain.run(first)
    forget_after(out, 1)
    before = (out / "config.yaml").read_text()
    resumed = replace(first, run=replace(run, resume=True))
    for now in (
        {"objective": replace(settings.objective, teacher=str(other))},
        {"model": replace(settings.model, text=str(other))},
    ):
        with pytest.raises(ValueError, match="the run was started with another teacher") as error:
            pretrain.run(replace(resumed, **now))
        assert "\n" not in str(error.value)
    assert (out / "config.yaml").read_text() == before
    same = shutil.copytree(text_model, tmp_path / "same")
    pretrain.run(replace(resumed, objective=replace(settings.objective, teacher=str(same))))


ACCELERATE = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0"]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate launch": [
        "accelerate.commands.launch",
        *ACCELERATE,
        "--mixed_precision=bf16",  # ours is the run's own
        "--dynamo_backend=no",
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_what_one_process_trains(settings, tmp_path, launcher):
    """To 1e-5 in float32, by the command line under either launcher.

    Running statistics of batch norms are left out: each process has its own half of the batches.
    """
    exact = replace(settings.optimization, batch_size=4, precision="float32", steps=6)
    save_yaml(replace(settings, optimization=exact), tmp_path / "config.yaml")
    command = [sys.executable, "-m", *LAUNCHERS[launcher]]
    flags = ["--run.out", str(tmp_path / "two")]
    done = subprocess.run(
        [*command, "-m", "vilta", "pretrain", str(tmp_path / "config.yaml"), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 x cpu" in done.stderr and done.stderr.count("next: vilta evaluate") == 1
    one = replace(settings.run, out=str(tmp_path / "one"))
    pretrain.run(replace(settings, optimization=replace(exact, accumulate=2), run=one))
    for (step, _), line in lines_of(tmp_path / "one").items():
        found = lines_of(tmp_path / "two")[step, False]
        losses = ["loss", "itc", *(["mlm", "text_mlm"] if step > 2 else [])]
        assert [found[n] for n in losses] == pytest.approx([line[n] for n in losses], abs=1e-5)
        if step == 6:
            break
    expected = load_file(tmp_path / "one" / "model" / "model.safetensors")
    found = load_file(tmp_path / "two" / "model" / "model.safetensors")
    # No gradient reaches a bias before a batch norm; AdamW makes steps of what rounding leaves.
    before_norms = [f"vilta.vision.stem.{layer}.bias" for layer in (0, 3, 6)]
    for name, weight in expected.items():
        if "running_" not in name and "num_batches" not in name and name not in before_norms:
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5, msg=name)


def test_evaluation_of_the_run(whole_run, capsys):
    evaluate.run(whole_run, EvaluateConfig(data=VAL, full=True, device="cpu"))
    result = json.loads(Path(f"{whole_run}/evaluation-scenes-12-seed-1-size-32.json").read_text())
    assert result["images"] == 12 and result["candidates"] == "all"
    assert result["teacher"] == "found"
    metrics = result["metrics"]
    assert set(metrics["retrieval"]) >= {"contrastive", "matching", "combined", "mean_recall"}
    assert set(metrics["masked_words"]) == {"with_image", "wrong_image", "text_only"}
    assert set(metrics["negatives"]) == {"none", "soft_label", "grounded"}
    assert all(0 <= value <= 100 for value in metrics["scenes"].values())
    printed = "".join(capsys.readouterr())
    assert "combined" in printed and f"next: vilta report {whole_run}" in printed
    again = f"{whole_run}/again.json"
    evaluate.run(whole_run, EvaluateConfig(data=VAL, full=True, device="cpu", out=again))
    repeated = json.loads(Path(again).read_text())["metrics"]
    assert repeated == metrics, "the same seed, the same metrics"


def test_bad_data_are_counted_and_strict_stops(settings, tmp_path, capsys, caplog):
    """Of four pictures for each use, one has no caption and one cannot be decoded."""
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.effect_noise((40, 40), 60 + i).save(tmp_path / name / f"{i}.png")
            (tmp_path / name / f"{i}.txt").write_text("" if i == 1 else "a large red ball")
        (tmp_path / name / "2.png").write_bytes(b"no image")
    paths = {"train": str(tmp_path / "train"), "val": str(tmp_path / "val")}
    changed = replace(
        settings,
        data=replace(settings.data, **paths),
        optimization=replace(settings.optimization, steps=1, batch_size=6),
        run=replace(settings.run, out=str(tmp_path / "run")),
    )
    pretrain.run(changed)
    for name in paths:
        assert f"{paths[name]}: 1 item skipped, the first: " in caplog.text
    said = "".join(capsys.readouterr())
    assert int(re.search(r"bad samples replaced by others: (\d+)", said)[1]) >= 2
    evaluate.run(str(tmp_path / "run"), EvaluateConfig(data=paths["val"], device="cpu"))
    assert "note: 1 of 3 items cannot be read" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/evaluation-val.json").read_text())["blank_images"] == 1

    for clean in ({"val": ""}, {"train": TRAIN}):
        strict = replace(changed, data=replace(changed.data, **clean, strict=True))
        with pytest.raises(ValueError, match=r"1\.\w+: .*no caption"):
            pretrain.run(replace(strict, run=replace(changed.run, out=str(tmp_path / "new"))))


@pytest.mark.parametrize(("ramp", "share"), [(0, 1.0), (4, 1.0), (2 * (STEPS - 2), 0.5)])
def test_soft_labels_weigh_in_an_evaluation_what_they_did_at_the_end(
    settings, whole_run, tmp_path, ramp, share
):
    (tmp_path / "model").symlink_to(Path(whole_run) / "model")
    objective = replace(settings.objective, alpha_ramp_steps=ramp)
    save_yaml(replace(settings, objective=objective), tmp_path / "config.yaml")
    task, *_ = load_run(str(tmp_path))
    assert float(task.ramped_alpha) == pytest.approx(share * objective.alpha)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "/no/such/folder"}, "/no/such/folder"),
        ({"train": "scenes:8?size=8"}, "16 pixels"),
        ({"image_size": 8}, "16"),
    ],
)
def test_bad_data_stop_before_training(settings, tmp_path, change, message):
    bad = replace(
        settings,
        data=replace(settings.data, **change),
        run=replace(settings.run, out=str(tmp_path / "run")),
    )
    with pytest.raises(ValueError, match=message) as raised:
        pretrain.run(bad)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "model").exists()


def test_epochs_become_steps_and_phases_are_those_of_the_objectives(settings):
    """40 scenes, 8 a step: 2.5 epochs are 12.5 steps."""
    config = pretraining_run.with_steps(replace(settings, epochs=2.5), 40)
    assert config.optimization.steps == 13
    assert pretraining_run.with_steps(settings, 40) == settings
    with pytest.raises(ValueError, match="--epochs needs data of a known size"):
        pretraining_run.with_steps(replace(settings, epochs=1.0), 0)
    for starts, expected in {
        (2, 4): [(0, "contrast"), (2, "masked words"), (4, "matching")],
        (0, 4): [(0, "masked words"), (4, "matching")],
        (3, 3): [(0, "contrast"), (3, "matching")],
        (0, 0): [(0, "matching")],
    }.items():
        objective = ObjectiveConfig(mlm_start=starts[0], itm_start=starts[1])
        found = [(phase.start, phase.name) for phase in pretraining_run.phases_of(objective)]
        assert found == expected


def test_the_command_line_ends_with_an_error_where_nothing_was_learnt(settings, tmp_path):
    """A rate that breaks all weights with the one step whose loss is still finite."""
    config = replace(
        settings,
        data=replace(settings.data, val=""),
        optimization=replace(settings.optimization, steps=1, lr=1e38, warmup=0.0, clip=0.0),
        run=replace(settings.run, out=str(tmp_path / "run")),
    )
    save_yaml(config, tmp_path / "broken.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "vilta", "pretrain", str(tmp_path / "broken.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "error: nothing was learnt: " in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run" / "model").exists()


def test_an_evaluation_of_a_diverged_model_says_so(settings, tmp_path):
    """A rate that leaves weights so large that what the model gives is not finite."""
    config = replace(
        settings,
        optimization=replace(settings.optimization, steps=1, lr=1e12, warmup=0.0),
        run=replace(settings.run, out=str(tmp_path / "run")),
    )
    with pytest.raises(ValueError, match=r"the model has diverged: .*lower --optimization\.lr"):
        pretrain.run(config)
    assert not (tmp_path / "run" / "model").exists()
