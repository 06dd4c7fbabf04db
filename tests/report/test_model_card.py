"""The card of a released folder tells what the run's record holds, and its code runs."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tiny_models import known_tokenizer, tiny_config, tiny_vilta

from vilta.model import ViltaForVisualQuestionAnswering, ViltaForVisualReasoning, ViltaProcessor
from vilta.report.model_card import UNKNOWN, licence_of, update_card, write_card

EVALUATION = {"retrieval/combined/image_to_text/R@1": 40.0, "retrieval/mean_recall": 50.0}


def make_run(folder, model, /, **settings):
    """A run folder with the files that training writes."""
    (folder / "model").mkdir(parents=True)
    model.save_pretrained(folder / "model")
    tokenizer = known_tokenizer(["two", "dogs", "run", "on", "a", "beach", "what", "is", "?"])
    ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(folder / "model")
    content = {
        "data": {"train": "/home/me/photos", "val": "data/val"},
        "run": {"selection_metric": "retrieval/mean_recall", "seed": 3},
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    lines = [{"step": 10, "loss": 1.0}]
    for step, value in ((10, 30.0), (20, 60.0), (30, 50.0)):
        values = EVALUATION | {"retrieval/mean_recall": value, "validation/itc": 1.25}
        lines.append({"step": step, "evaluation": values})
    text = "\n".join(map(json.dumps, lines))
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 40, "evalu')  # as a killed run leaves
    return folder


@pytest.fixture
def run(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    (text / "README.md").write_text("---\nlicense: mit\n---\nAn encoder.\n")
    (tmp_path / "packed").mkdir()
    manifest = {"source": "scenes:9?seed=0", "rows": 9, "captions": 45}
    (tmp_path / "packed" / "manifest.json").write_text(json.dumps(manifest))
    return make_run(
        tmp_path / "mine",
        tiny_vilta(),
        data={"train": f"{tmp_path}/packed+/home/me/photos", "val": "data/val"},
        model={"image": "configs/image.json", "text": str(text)},
        objective={"teacher": "nobody/knows-this"},
    )


def row(card, *cells):
    return f"| {' | '.join(cells)} |" in card.splitlines()


def test_the_card_tells_data_metrics_settings_and_licences(run):
    card = write_card(run).read_text()
    assert row(card, "text encoder", "text", "mit")
    assert row(card, "teacher", "nobody/knows-this", UNKNOWN)
    assert row(card, "image encoder", "trained here from random weights", "apache-2.0")
    assert row(card, "training data", "built-in scenes", "apache-2.0")
    assert row(card, "training data", "photos", UNKNOWN)
    assert "step 20 by `retrieval/mean_recall`: not a test result" in card and "seed 3" in card
    assert row(card, "`retrieval/mean_recall`", "60")
    assert "validation/itc" not in card and "step 40" not in card
    assert "/home/me" not in card and str(run.parent) not in card
    assert "teacher: nobody/knows-this" in card
    assert ModelCard(card).data.license == "other"


def test_no_form_of_a_path_shows_the_folders_above(tmp_path):
    data = {
        "train": "stream:/home/me/clients/cc3m",
        "val": "/home/me/captions.csv?images=/home/me/photos",
    }
    folder = make_run(tmp_path / "mine", tiny_vilta(), objective={}, data=data)
    card = write_card(folder).read_text()
    assert "/home/me" not in card
    assert row(card, "train", "stream:cc3m", "", "")
    assert "On captions.csv?images=photos, which chose step 20" in card


def test_an_evaluation_after_training_takes_the_place_of_the_one_on_the_way(run):
    values = {"retrieval": {"combined": {"image_to_text": {"R@1": 41.5}}}}
    for name, data in (("val", "data/val"), ("test", "data/test")):
        content = {"run": "mine", "data": data, "metrics": values}
        (run / f"evaluation-{name}.json").write_text(json.dumps(content))
    (run / "evaluation-cut.json").write_text('{"run": "mine", ')
    card = write_card(run).read_text()
    assert card.count("`retrieval/combined/image_to_text/R@1` | 41.5") == 2
    assert "On data/test.\n" in card and "On data/val, which chose step 20" in card
    assert "`retrieval/mean_recall` |" not in card


def test_each_task_that_was_measured_on_the_same_data_has_its_table(run):
    for name, about in (
        ("evaluation-val", {"metrics": {"retrieval": {"matching": {"R@1": 41.5}}}}),
        ("masked-words-val", {"task": "masked-words", "metrics": {"words/gain": 7.5}}),
    ):
        (run / f"{name}.json").write_text(json.dumps({"run": "mine", "data": "data/val", **about}))
    card = write_card(run).read_text()
    assert row(card, "`retrieval/matching/R@1`", "41.5") and row(card, "`words/gain`", "7.5")
    assert "On data/val, which chose step 20" in card
    assert "On data/val, by `masked-words`, which chose step 20" in card


def test_what_chose_the_weights_and_all_that_a_task_measures_are_shown(tmp_path):
    chosen = {"selection_metric": "validation/itc"}
    plain = make_run(tmp_path / "plain", tiny_vilta(), objective={}, run=chosen)
    card = write_card(plain).read_text()
    assert row(card, "`validation/itc`", "1.25") and "chose step 10 by `validation/itc`" in card
    model = ViltaForVisualReasoning(tiny_config(num_labels=2))
    tuned = make_run(tmp_path / "tuned", model, task="nlvr2")
    metrics = {"consistency": 30.0, "accuracy/hot dog": 50.0, "accuracy/yes|no": 60.0}
    content = {"run": "tuned", "data": "test1", "task": "nlvr2", "metrics": metrics}
    (tuned / "nlvr2-test1.json").write_text(json.dumps(content))
    card = write_card(tuned).read_text()
    assert row(card, "`consistency`", "30") and row(card, "`accuracy/hot dog`", "50")
    assert row(card, r"`accuracy/yes\|no`", "60") and "On test1.\n" in card


def test_the_card_of_a_last_step_claims_no_choice(tmp_path):
    last = {"selection_metric": "retrieval/mean_recall", "release": "last"}
    card = write_card(make_run(tmp_path / "mine", tiny_vilta(), objective={}, run=last)).read_text()
    assert (
        "which chose" not in card and "the last step was released, none was chosen on these" in card
    )
    assert row(card, "`retrieval/mean_recall`", "50")


def test_the_card_is_the_same_when_written_from_another_folder(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for name in ("data/train", "data/val", "text"):
        (project / name).mkdir(parents=True)
        (project / name / "README.md").write_text("---\nlicense: mit\n---\n")
        manifest = {"source": "photos.csv", "rows": 9, "captions": 45}
        (project / name / "manifest.json").write_text(json.dumps(manifest))
    elsewhere.mkdir()
    monkeypatch.chdir(project)
    run = make_run(
        project / "runs" / "mine",
        tiny_vilta(),
        data={"train": "data/train", "val": "data/val"},
        model={"image": "image.json", "text": "text"},
        objective={"teacher": "text"},
    )
    content = {"run": "runs/mine", "data": str(project / "data/val"), "metrics": {"score": 41.5}}
    (run / "evaluation-val.json").write_text(json.dumps(content))
    card = write_card("runs/mine").read_text()
    assert row(card, "train", "data/train (photos.csv)", "9", "45")
    assert row(card, "training data", "data/train", "mit") and row(card, "teacher", "text", "mit")
    assert card.count("On data/val, which chose step 20") == 1 and row(card, "`score`", "41.5")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "data" / "train").mkdir(parents=True)
    assert write_card("../project/runs/mine").read_text() == card


def test_a_plus_within_a_name_joins_nothing(tmp_path, monkeypatch):
    for name in ("c++", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", tiny_vilta(), data={"train": "c+++other", "val": ""}, model={})
    card = write_card(str(run)).read_text()
    assert row(card, "training data", "c++", "mit") and row(card, "training data", "other", "mit")


def test_a_licence_is_stated_for_the_whole_only_if_it_is_the_same_for_all_parts(tmp_path):
    settings = dict(model={"image": "image.json", "text": "text.json"}, objective={"teacher": ""})
    data = {"train": "scenes:90?seed=0", "val": ""}
    path = write_card(make_run(tmp_path / "run", tiny_vilta(), data=data, **settings))
    assert ModelCard.load(path).data.license == "apache-2.0"
    assert "held-out training data, which chose step 20" in path.read_text()


@pytest.mark.parametrize("content", ["no card", "---\nlicense: [\n---\n", "---\ntags: [x]\n---\n"])
def test_a_card_without_a_licence_states_none(content, tmp_path):
    (tmp_path / "README.md").write_text(content)
    assert licence_of(str(tmp_path)) == UNKNOWN


def test_only_a_run_with_a_released_model_gets_a_card(tmp_path, run):
    with pytest.raises(ValueError, match="not a run with a released model"):
        write_card(tmp_path)
    update_card(tmp_path)
    assert not list(tmp_path.glob("model/*"))
    update_card(run)
    assert (run / "model" / "README.md").is_file()


KINDS = {
    "pretrain": (tiny_vilta, {"objective": {}}),
    "vqa": (ViltaForVisualQuestionAnswering, {"task": "vqa"}),
    "nlvr2": (ViltaForVisualReasoning, {"task": "nlvr2"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_runs(kind, tmp_path, monkeypatch, capsys):
    build, settings = KINDS[kind]
    model = build() if kind == "pretrain" else build(tiny_config(num_labels=3))
    run = make_run(tmp_path / "run", model, **settings)
    (code,) = re.findall(r"```python\n(.*?)```", write_card(run).read_text(), flags=re.DOTALL)
    for name in ("photo", "left", "right"):
        Image.effect_noise((50, 40), 90).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("FOLDER-OR-HUB-NAME", "run/model"), {})
    assert capsys.readouterr().out.startswith("tensor([0." if kind == "pretrain" else "LABEL_")
