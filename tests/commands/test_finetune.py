"""`vilta finetune` and `vilta evaluate` on a few pictures, and all that they refuse."""

import functools
import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_models import known_tokenizer, tiny_vilta

from vilta.cli import run
from vilta.finished_run import read_run
from vilta.model import (
    ViltaConfig,
    ViltaForImageTextClassification,
    ViltaForVisualEntailment,
    ViltaProcessor,
)
from vilta.model.configuration import read_config
from vilta.tasks.label_task import LabellingTask
from vilta.tasks.vqa import VqaSettings
from vilta.training.folder import log_lines

WORDS = "what is it a light dark picture of red green grey thing yes no".split()  # noqa: SIM905
FAST = ["--run.device", "cpu", "--data.workers", "0", "--optimization.batch-size", "4"]
TINY = "size=32&seed="


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A pre-trained model as a run releases it."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    model = tiny_vilta()
    model.save_pretrained(folder / "model")
    processor = ViltaProcessor.from_config(model.config, known_tokenizer(WORDS))
    processor.save_pretrained(folder / "model")
    (folder / "config.yaml").write_text("run: {out: somewhere}\n")
    return str(folder)


@pytest.fixture
def data(tmp_path):
    """A CSV for each split; dark pictures and light ones, no picture in two splits."""
    for split, count in {"train": 12, "val": 6, "test": 6}.items():
        lines = ["image,text,label"]
        for i in range(count):
            name, light = f"{split}-{i}.png", i % 2
            path = tmp_path / "img" / name
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 40), (200 * light + i, 200 * light, 30)).save(path)
            lines.append(f"{name},a picture of it,{('dark', 'light')[light]}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def finetune(start, data, *flags, task="classification", out="run"):
    run(
        [
            *("finetune", task, "--from", start, "--run.out", str(data / out), *FAST),
            *("--data.train", str(data / "train.csv"), "--data.val", str(data / "val.csv")),
            *flags,
        ]
    )
    return data / out


def evaluate(folder, data, split="test", *flags, task=""):
    """Evaluate a run on a CSV; ``task`` empty: on the task that it was fine-tuned for."""
    where = ["--data", str(data / f"{split}.csv"), "--device", "cpu"]
    run(["evaluate", str(folder), "--task", task, *where, *flags])


@pytest.fixture(scope="module")
def learnt(start, tmp_path_factory):
    """The run that a task's first step on a few scenes gives; each is made once."""

    @functools.cache
    def make(task):
        out = tmp_path_factory.mktemp(task) / "run"
        own = ["--settings.min-answers", "1"] if task == "vqa" else []
        run(
            [
                *("finetune", task, "--from", start, "--run.out", str(out), *FAST),
                *("--data.train", f"scenes:12?{TINY}1", "--data.val", f"scenes:6?{TINY}2"),
                *("--epochs", "0", "--optimization.steps", "1", *own),
            ]
        )
        return out

    return make


def refused(capsys, call, *arguments, **settings):
    with pytest.raises(ValueError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_from_a_run_to_test_metrics(start, data, capsys):
    out = finetune(start, data, "--epochs", "8", "--optimization.lr", "3e-3")
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["task"] == "classification"
    assert config["optimization"]["steps"] == 24  # 12 items, 4 a step, 8 epochs
    assert config["run"]["evaluate_every"] == 3  # once an epoch
    assert config["data"]["image_size"] == 32
    model = ViltaForImageTextClassification.from_pretrained(out / "model")
    assert model.config.id2label == {0: "dark", 1: "light"}

    evaluate(out, data)
    said = "".join(capsys.readouterr())
    assert "checkpoints are chosen on 6 of" in said
    assert "(test)" in said and "in Python: from vilta import" in said
    result = json.loads((out / "classification-test.json").read_text())
    assert result["role"] == "test"
    assert result["metrics"]["accuracy"] == 100.0  # dark from light is easy to see
    evaluate(out, data)
    assert "evaluation 2 of the run on these test data" in "".join(capsys.readouterr())
    evaluate(out, data, "val")
    assert "validation: the checkpoint was chosen on these" in "".join(capsys.readouterr())

    # The same images under another name, and some of them among others, stay what they are.
    val, test = ((data / f"{split}.csv").read_text() for split in ("val", "test"))
    (data / "copy.csv").write_text(val)
    (data / "mixed.csv").write_text(test + val.splitlines()[1] + "\n")
    for name in ("copy", "mixed"):
        evaluate(out, data, name)
        assert "validation: the checkpoint was chosen on these" in "".join(capsys.readouterr())


def test_longer_texts_than_the_encoder_reads_are_refused_before_training(start, data, capsys):
    said = refused(capsys, finetune, start, data, "--data.max-text-tokens", "500")
    assert "cannot read 500 tokens; give --data.max-text-tokens 40 or lower" in said
    assert not (data / "run" / "metrics.jsonl").exists()


def test_the_released_model_of_a_run_is_the_run(start, data, capsys):
    out = finetune(start, data, "--epochs", "1")
    evaluate(f"{out}/model", data, "val")
    assert "validation: the checkpoint was chosen on these" in "".join(capsys.readouterr())
    assert "was trained on 12 of these images" in refused(
        capsys, evaluate, f"{out}/model", data, "train"
    )
    shutil.copytree(out / "model", data / "released")
    said = refused(capsys, evaluate, data / "released", data)
    assert "no config.yaml that names its task; add --task" in said
    evaluate(data / "released", data, task="classification")
    assert "zero-shot" in "".join(capsys.readouterr()), "nothing is known of how it was trained"


def test_another_task_of_the_run_knows_what_it_was_trained_on(learnt, capsys):
    out = learnt("retrieval")
    where = [str(out), "--task", "fine-grained", "--device", "cpu", "--batch-size", "4"]
    told = "trained on 12 of these images"
    run(["evaluate", *where, "--data", f"scenes:6?{TINY}2"])
    assert "validation: the checkpoint was chosen on these" in "".join(capsys.readouterr())
    assert told in refused(capsys, run, ["evaluate", *where, "--data", f"scenes:12?{TINY}1"])


@pytest.mark.parametrize("how", [[], ["--scratch"]])
def test_a_calibration_is_not_that_of_the_model_it_is_fine_tuned_to(start, tmp_path, how):
    before, out = tmp_path / "before", tmp_path / "run"
    shutil.copytree(start, before)
    path = before / "model" / "config.json"
    given = {"match_temperature": 3.0, "match_bias": -2.0, "search_threshold": 0.9}
    given |= {"suspicion_threshold": 1.5, "calibrated_on": "9 images of others"}
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    run(
        [
            *("finetune", "fine-grained", "--from", str(before), "--run.out", str(out), *FAST),
            *("--data.train", f"scenes:12?{TINY}1", *how),
            *("--epochs", "0", "--optimization.steps", "1"),
        ]
    )
    found = read_config(out / "model")
    assert {name: getattr(found, name) for name in given} == {
        name: getattr(ViltaConfig(), name) for name in given
    }


@pytest.mark.parametrize(
    ("task", "before", "after"),
    [
        ("retrieval", "matching", "combined"),
        ("fine-grained", "matching", "matching"),
        ("fine-grained", "contrastive", "combined"),
    ],
)
def test_a_run_ranks_by_the_heads_of_its_start_and_its_own(start, tmp_path, task, before, after):
    place, out = tmp_path / "before", tmp_path / "run"
    shutil.copytree(start, place)
    config = place / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"ranking": before}))
    run(
        [
            *("finetune", task, "--from", str(place), "--run.out", str(out), *FAST),
            *("--data.train", f"scenes:12?{TINY}1", "--data.val", f"scenes:6?{TINY}2"),
            *("--epochs", "0", "--optimization.steps", "1"),
        ]
    )
    assert read_config(out / "model").ranking == after
    if task == "retrieval":
        assert "combined/mean_recall" in log_lines(out / "metrics.jsonl")[-1]["evaluation"]


def test_a_retrieval_run_is_calibrated_and_again_on_demand(learnt, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(learnt("retrieval"), out)

    def settings():
        return json.loads((out / "model" / "config.json").read_text())

    assert settings()["calibrated_on"] == f"6 images of scenes:6?{TINY}2"
    where = [str(out), "--device", "cpu", "--batch-size", "4", "--calibrate"]
    run(["evaluate", *where, "--data", f"scenes:5?{TINY}4"])
    assert settings()["calibrated_on"] == f"5 images of scenes:5?{TINY}4"
    call = ["evaluate", *where, "--task", "fine-grained", "--data", f"scenes:5?{TINY}4"]
    assert "--calibrate needs image-text pairs" in refused(capsys, run, call)


def test_a_finetuning_returns_what_it_released(start, data, capsys):
    out = finetune(start, data, "--epochs", "0", "--optimization.steps", "1", "--json")
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["model"] == f"{out}/model" and found["steps"] == found["released"]["step"] == 1
    assert f"next: vilta evaluate {out} --data {data}/val.csv\n" in said.err


def test_looks_are_counted_for_the_same_data_alone(start, data, capsys):
    out = finetune(start, data, "--epochs", "1")
    target = ["--out", str(data / "metrics.json")]
    (data / "metrics.json").write_text('{"something": "else"}')
    (data / "other.csv").write_text((data / "test.csv").read_text())
    for split in ("test", "other", "test"):
        evaluate(out, data, split, *target)
        assert "of the run on these test data" not in "".join(capsys.readouterr())
    evaluate(out, data, "test", *target)
    assert "evaluation 2 of the run on these test data" in "".join(capsys.readouterr())


@pytest.mark.parametrize("step", [2, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(start, data, step):
    every = ["--run.log-every", "1", "--run.save-every", "1", "--run.keep", "9"]
    whole = finetune(start, data, "--epochs", "2", *every, out="whole")
    part = data / "part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "model")
    for place in (part / "checkpoints").iterdir():
        if place.name.startswith("step-") and int(place.name[5:]) > step:
            shutil.rmtree(place)
    run(["finetune", str(part / "config.yaml"), "--run.resume", "--run.out", str(part)])

    def losses(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    assert losses(part) == losses(whole)
    assert len(losses(whole)) == 6


def test_from_scratch_starts_elsewhere(start, data):
    def first_weight(*flags, out):
        folder = finetune(
            *(start, data, "--epochs", "0", "--optimization.steps", "1"),
            *("--optimization.lr", "1e-9", *flags),
            out=out,
        )
        model = ViltaForImageTextClassification.from_pretrained(folder / "model")
        return model.vilta.image_projection.weight

    before = tiny_like(start).vilta.image_projection.weight
    assert torch.allclose(first_weight(out="from"), before, atol=1e-6)
    assert not torch.allclose(first_weight("--scratch", out="scratch"), before, atol=1e-2)


@pytest.mark.parametrize("frozen", [(), ("image",), ("image", "text")])
def test_frozen_encoders_stay_as_pre_training_left_them(start, data, frozen):
    steps = ["--epochs", "0", "--optimization.steps", "3", "--optimization.lr", "0.1"]
    folder = finetune(start, data, *steps, *(["--freeze", *frozen] if frozen else []))
    before = tiny_like(start).vilta
    after = ViltaForImageTextClassification.from_pretrained(folder / "model").vilta

    def same(name):
        of_before, of_after = (m.get_submodule(name).state_dict() for m in (before, after))
        return all(torch.equal(of_before[key], of_after[key]) for key in of_before)

    assert same("vision") == ("image" in frozen)
    assert same("text") == ("text" in frozen)
    assert not same("image_projection")


def tiny_like(start):
    return ViltaForImageTextClassification.from_pretrained(Path(start) / "model")


def test_blind_training_sees_no_picture(start, data):
    out = finetune(start, data, "--epochs", "4", "--data.blind")
    evaluate(out, data)
    metrics = json.loads((out / "classification-test.json").read_text())["metrics"]
    assert metrics["accuracy"] == 50.0  # all items have the same text


def test_the_task_of_the_guide_works_as_it_stands(start, data, monkeypatch):
    """docs/new-task.md shows a file and a YAML; they are run here, letter for letter."""
    page = (Path(__file__).parents[2] / "docs" / "new-task.md").read_text()
    blocks = dict(
        re.findall(r"^```(python|yaml)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    )
    (data / "memes.py").write_text(blocks["python"])
    (data / "memes.yaml").write_text(blocks["yaml"])
    monkeypatch.chdir(data)
    monkeypatch.syspath_prepend(str(data))
    out = finetune(start, data, "--epochs", "1", task="memes.yaml")
    evaluate(out, data, task="memes:Memes")
    result = json.loads((out / "memes-Memes-test.json").read_text())
    assert result["task"] == "memes:Memes" and "accuracy" in result["metrics"]


def test_a_metric_may_be_undefined_now_and_then(start, data, monkeypatch):
    code = """
        from vilta.tasks.classification import Classification

        class Correlation(Classification):
            name, selection_metric = "correlation", "rho"
            values = [float("nan"), 0.5, 0.25]

            def evaluate(self, predictions, items):
                return {"rho": self.values.pop(0) if self.values else float("nan")}
    """
    (data / "mine.py").write_text(textwrap.dedent(code))
    monkeypatch.chdir(data)
    out = finetune(start, data, "--epochs", "3", task="mine:Correlation")
    card = (out / "model" / "README.md").read_text()
    assert "chose step 6 by `rho`" in card and "| `rho` | 0.5 |" in card
    evaluate(out, data)
    text = (out / "mine-Correlation-test.json").read_text()
    assert "NaN" not in text and json.loads(text)["metrics"] == {"rho": None}


def test_what_finetune_refuses(start, data, capsys):
    def message(*flags, **settings):
        return refused(capsys, finetune, settings.pop("start", start), data, *flags, **settings)

    assert "did you mean 'classification'?" in message(task="clasification")
    assert "--from must name" in message(start="")
    assert "is neither a run nor a released model" in message(start=str(data))
    assert "measured, not trained" in message(task="masked-words")
    assert "name one" in message("--scratch", "--freeze", "image")
    assert "no such file" in message("--data.train", str(data / "none.csv"))


def test_overlap_is_refused_unless_accepted(start, data, capsys):
    same = ["--data.val", str(data / "train.csv"), "--epochs", "1"]
    said = refused(capsys, finetune, start, data, *same)
    assert "12 images of" in said and "--data.accept-overlap" in said
    out = finetune(start, data, *same, "--data.accept-overlap")
    (data / "again.csv").write_text((data / "train.csv").read_text())
    said = refused(capsys, evaluate, out, data, "again")
    assert "was trained on 12 of these images" in said
    evaluate(out, data, "again", "--accept-trained")
    result = json.loads((out / "classification-again.json").read_text())
    assert result["role"].startswith("trained on these images")


def test_labels_and_checkpoints_must_fit(start, data, capsys):
    out = finetune(start, data, "--epochs", "1")
    text = (data / "val.csv").read_text()
    (data / "odd.csv").write_text(text.replace("light", "bright"))
    assert "label 'bright' is not among" in refused(capsys, evaluate, out, data, "odd")
    (data / "train.csv").write_text((data / "train.csv").read_text().replace("dark", "dim"))
    said = refused(capsys, finetune, str(out), data, out="second")
    assert "knows 2 labels and the data have 2" in said and "'dim'" in said

    other = data / "nlvr"
    ViltaForVisualEntailment.from_pretrained(Path(start) / "model").save_pretrained(other)
    known_tokenizer(WORDS).save_pretrained(other)
    said = refused(capsys, finetune, str(other), data, out="third")
    assert "checkpoint of ViltaForVisualEntailment" in said


def test_a_task_with_a_head_must_be_fine_tuned_first(start, data, capsys):
    said = refused(capsys, evaluate, start, data, task="classification")
    assert "holds a ViltaForPreTraining" in said and "vilta finetune classification" in said
    out = finetune(start, data, "--epochs", "1")
    said = refused(capsys, evaluate, out, data, task="vqa")
    assert "was fine-tuned for classification" in said


def test_a_fine_tuned_run_is_measured_on_its_task(learnt, capsys):
    out, items = str(learnt("snli-ve")), ["--data", f"scenes:6?{TINY}2"]
    for verb in (["evaluate", out, "--task", "pretraining", *items], ["report", out]):
        said = refused(capsys, run, verb)
        assert f"use: vilta evaluate {out} --data DATA" in said


def test_the_old_spelling_of_evaluate_tells_the_new_one(learnt, capsys):
    out = learnt("vqa")
    for old in (["vqa", "--from", str(out)], ["vqa"]):
        said = refused(capsys, run, ["evaluate", *old, "--data", "x.csv"])
        run_folder = out if len(old) > 1 else "RUN"
        assert f"use: vilta evaluate {run_folder} --task vqa --data x.csv" in said
    said = refused(capsys, run, ["evaluate", "mine.tasks:Mine", "--data", "x.csv"])
    assert "use: vilta evaluate RUN --task mine.tasks:Mine --data x.csv" in said


def test_items_are_predicted_once_for_figures_and_submission(learnt, tmp_path, monkeypatch):
    folder, calls = str(learnt("vqa")), []
    predict = LabellingTask.predict
    monkeypatch.setattr(
        LabellingTask, "predict", lambda self, loader: calls.append(1) or predict(self, loader)
    )
    answers = tmp_path / "answers.json"
    call = ["evaluate", folder, "--data", f"scenes:4?{TINY}3", "--device", "cpu"]
    run([*call, "--submission", str(answers), "--out", str(tmp_path / "metrics.json")])
    assert calls == [1]


def test_settings_belong_to_their_task_and_those_of_an_old_run_load(learnt, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(["finetune", "vqa", "--settings.premise", "--from", "x"])
    assert "--settings.premise" in capsys.readouterr().err
    config = yaml.safe_load((learnt("vqa") / "config.yaml").read_text())
    assert list(config["settings"]) == ["min_answers"]
    # As version 0.1.0 wrote it: the settings of all tasks in one class.
    config["settings"] = {
        "min_answers": 5,
        "premise": False,
        "top_k": 32,
        "full": False,
        "folds": 1,
        "paraphrases": 1.0,
        "edit_kinds": [],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_run(str(tmp_path)).settings == VqaSettings(min_answers=5)
    config["settings"]["min_anwsers"] = 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"settings.min_anwsers.*did you mean 'min_answers'"):
        read_run(str(tmp_path))


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "snli-ve", "fine-grained", "retrieval"])
def test_every_task_from_a_run_to_test_metrics(learnt, tmp_path, task):
    folder, out, answers = learnt(task), tmp_path / "metrics.json", tmp_path / "answers"
    call = ["evaluate", str(folder), "--data", f"scenes:8?{TINY}3"]
    has_format = task in ("vqa", "nlvr2", "snli-ve")
    submission = ["--submission", str(answers)] if has_format else []
    run([*call, "--out", str(out), "--device", "cpu", *submission])
    result = json.loads(out.read_text())
    assert result["role"] == "test" and result["items"] >= 8
    metric = yaml.safe_load((folder / "config.yaml").read_text())["run"]["selection_metric"]
    assert 0 <= result["metrics"][metric] <= 100
    if has_format:
        text = answers.read_text()
        lines = json.loads(text) if task == "vqa" else text.splitlines()
        assert len(lines) == result["items"]


def write_unanswered(folder, task):
    """Three items as the task's test sets are published where the answers are secret."""
    if task == "vqa":
        path = folder / "v2_OpenEnded_mscoco_test2015_questions.json"
        items = [{"question_id": i, "image_id": i, "question": "what is it"} for i in range(3)]
        path.write_text(json.dumps({"questions": items}))
        images = [f"COCO_test2015_{i:012d}.jpg" for i in range(3)]
    elif task == "nlvr2":
        path = folder / "test.json"
        items = [{"identifier": f"test-{i}-0-0", "sentence": "a light thing"} for i in range(3)]
        images = [f"test-{i}-0-img{side}.png" for i in range(3) for side in (0, 1)]
    else:
        path = folder / "snli_ve_test.jsonl"
        items = [{"Flickr30K_ID": f"{i}", "sentence2": "a light thing"} for i in range(3)]
        images = [f"{i}.jpg" for i in range(3)]
    if task != "vqa":
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    for i, name in enumerate(images):
        Image.new("RGB", (40, 40), (30 * i, 90, 200)).save(folder / name)
    return str(path)


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "snli-ve"])
def test_items_without_answers_are_answered_and_nothing_else(start, learnt, tmp_path, capsys, task):
    path, answers, out = write_unanswered(tmp_path, task), tmp_path / "answers", tmp_path / "out"
    call = ["evaluate", str(learnt(task)), "--data", path, "--out", str(out)]
    assert "3 of 3 items" in refused(capsys, run, [*call, "--device", "cpu"])
    run([*call, "--device", "cpu", "--submission", str(answers)])
    text = answers.read_text()
    assert len(json.loads(text) if task == "vqa" else text.splitlines()) == 3
    assert "no metrics: 3 of 3 items have no answer" in "".join(capsys.readouterr())
    assert not out.exists()

    for train, val in ((path, f"scenes:6?{TINY}2"), (f"scenes:6?{TINY}2", path)):
        where = ["--data.train", train, "--data.val", val, "--run.out", str(out), *FAST]
        said = refused(capsys, run, ["finetune", task, "--from", start, *where])
        assert f"3 of 3 items of {path} have no answer" in said
        assert not out.exists()


def test_one_empty_answer_of_a_csv_is_found_before_training(start, data, capsys):
    for split in ("train", "val"):
        text = (data / f"{split}.csv").read_text().replace("text,label", "question,answer")
        (data / f"{split}.csv").write_text(text)
    for split, count in {"val": 6, "train": 12}.items():
        path = data / f"{split}.csv"
        path.write_text(path.read_text().replace("light", "", 1))
        said = refused(capsys, finetune, start, data, "--settings.min-answers", "1", task="vqa")
        assert f"1 of {count} items of {path} have no answer, the first: 1; add" in said
        assert "column answer" in said


def test_a_pretrained_run_is_measured_where_no_head_is_needed(start, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    source = ["--data", "scenes:8?seed=3&size=32", "--out", str(out), "--device", "cpu"]
    for task in ("retrieval", "fine-grained", "masked-words"):
        run(["evaluate", start, "--task", task, *source])
        result = json.loads(out.read_text())
        assert result["role"].startswith("zero-shot")
        assert result["metrics"]
        out.unlink()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_an_error_for_runs_and_tasks(start, capsys):
    asked = ["--data", f"scenes:4?{TINY}3", "--device", "cuda"]
    for call in (["evaluate", start], ["evaluate", start, "--task", "retrieval"]):
        said = refused(capsys, run, [*call, *asked])
        assert "--device cuda: torch finds no such device" in said


def test_missing_images_are_listed(start, data, capsys):
    lines = ["image,text,label", *(f"gone-{i}.png,a,{'ab'[i % 2]}" for i in range(11))]
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    said = refused(capsys, finetune, start, data)
    assert "11 of 11 images" in said and "gone-9.png" in said and "gone-10.png" not in said


def test_a_folder_called_like_a_task_does_not_hide_it(learnt, tmp_path, monkeypatch, capsys):
    out, place = learnt("vqa").resolve(), tmp_path / "work"
    (place / "vqa").mkdir(parents=True)
    monkeypatch.chdir(place)
    run(["evaluate", str(out), "--data", f"scenes:4?{TINY}3", "--device", "cpu"])
    assert "accuracy" in "".join(capsys.readouterr())
    said = refused(capsys, run, ["evaluate", str(out), "--task", "vqq", "--data", "x.csv"])
    assert "did you mean 'vqa'?" in said
