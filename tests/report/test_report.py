"""A tiny random run, on scenes and on other images, becomes a page."""

import json
import os
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import CAPTIONS, SIZE, scramble, tiny_config, tiny_tokenizer

from vilta.commands import evaluate
from vilta.commands.report import run
from vilta.config import DataConfig, ObjectiveConfig, PretrainConfig
from vilta.config.tools import EvaluateConfig, ReportConfig
from vilta.config.yaml_file import load_yaml, save_yaml
from vilta.finished_run import load_run
from vilta.model import ViltaForPreTraining
from vilta.model.language_model import load_tokenizer
from vilta.report.caption_examples import _pieces, _stays_true
from vilta.report.examples import collect_examples
from vilta.scenes import captions, is_true, parse, scene_from_id, synonyms
from vilta.tasks.pretraining import PretrainingTask
from vilta.types import Sample

PICTURES = ("loss-curves.png", "retrieval.png", "masked-words.png", "negatives.png")
NASTY = '<script>alert("x")</script> & a $red ball lies'


def make_run(folder, **objective):
    """Write a run with a random model and a log of two lines, the last of them torn."""
    # A ratio that no word reaches: a random model finds all words equally plausible.
    settings = ObjectiveConfig(
        **({"soft_labels": "none", "filter_ratio": 1e9, "teacher_filter_ratio": 0.0} | objective)
    )
    tokenizer = tiny_tokenizer("wordpiece", size=200)
    text = transformers.BertConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=128)
    config = tiny_config()
    config.text_config = text
    model = scramble(ViltaForPreTraining(config), 0.05)
    plain = ObjectiveConfig(soft_labels="none", negatives="off", itm_start=settings.itm_start)
    PretrainingTask(model, tokenizer, plain).save_pretrained(str(folder / "model"))
    trained = PretrainConfig(
        data=DataConfig(image_size=32, max_text_tokens=24, workers=0), objective=settings
    )
    save_yaml(trained, folder / "config.yaml")
    lines = [
        {"step": 0, "device": "1 x 2 CPU threads", "precision": "float32 (as asked)"},
        {"step": 10, "loss": 3.0, "mlm": 2.0, "itc": None, "samples_per_s": 16, "seconds": 5.0,
         "epoch": 0.5, "negatives/synonyms": 0.25},
        {"step": 10, "evaluation": {"validation/mlm": 1.5, "retrieval/mean_recall": 10.0}},
        {"step": 20, "loss": 2.0, "mlm": 1.0, "itc": 0.5, "samples_per_s": 16, "seconds": 30.0,
         "epoch": 1.0, "negatives/synonyms": 0.75},
        {"step": 20, "evaluation": {"validation/mlm": 1.2, "retrieval/mean_recall": 20.0}},
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 30, "lo')
    return str(folder)


def photos(folder, captions):
    folder.mkdir()
    for index, caption in enumerate(captions):
        noise = np.random.default_rng(index).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return str(folder)


@pytest.fixture(scope="module")
def on_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    data = photos(folder / "data", [NASTY, *CAPTIONS[:7]])
    path = make_run(folder / "run")
    evaluate.run(path, EvaluateConfig(data=data, top_k=6, device="cpu"))
    run(path, ReportConfig(examples=6))
    return folder / "run"


@pytest.fixture(scope="module")
def on_scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    path = make_run(folder / "run")
    data = "scenes:8?seed=1&size=32"
    evaluate.run(path, EvaluateConfig(data=data, full=True, device="cpu"))
    run(path, ReportConfig(examples=8, out=str(folder / "page" / "index.html")))
    return folder


class Links(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.found += [value for name, value in attrs if name in ("src", "srcset", "href")]


def test_all_files_are_there_and_pictures_open(on_photos, on_scenes):
    for folder in (on_photos / "report", on_scenes / "page"):
        for name in PICTURES:
            width, height = Image.open(folder / name).size
            assert width > 600 and height > 100
        assert not list(folder.glob(".tmp*"))
    assert (on_scenes / "page" / "index.html").is_file()


def test_page_needs_nothing_else(on_photos, on_scenes):
    for path in (on_photos / "report" / "report.html", on_scenes / "page" / "index.html"):
        page = path.read_text()
        links = Links()
        links.feed(page)
        assert len(links.found) > 10
        assert all(link.startswith("data:image/") for link in links.found)
        assert not links.tags & {"script", "link", "iframe"}
        assert not re.search(r"https?://|url\(|@import", page)


def test_captions_are_escaped(on_photos):
    page = (on_photos / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert NASTY in unescape(page)


def test_tiles_show_the_figures_of_the_evaluation(on_scenes):
    page = (on_scenes / "page" / "index.html").read_text()
    tiles = re.findall(r'class="tile"><b>(.*?) %</b><span>(.*?)</span><small>(.*?)<', page)
    shown = {label: value for value, label, _ in tiles}
    (path,) = (on_scenes / "run").glob("evaluation-*.json")
    metrics = json.loads(path.read_text())["metrics"]
    expected = {
        "R@1, image to text": metrics["retrieval"]["combined"]["image_to_text"]["R@1"],
        "R@1, text to image": metrics["retrieval"]["combined"]["text_to_image"]["R@1"],
        "masked words right with the image": metrics["masked_words"]["with_image"]["top1"],
        "masked colours right": metrics["scenes"]["colour"],
        "true caption beats a one-word edit": metrics["scenes"]["edit"],
        "paraphrases accepted": metrics["scenes"]["paraphrase"],
        "negatives that are true": metrics["negatives"]["grounded"]["still_true"],
    }
    assert shown == {label: f"{value:.1f}" for label, value in expected.items()}


def test_flat_figures_hold_evaluation_and_training(on_photos):
    flat = json.loads((on_photos / "metrics.json").read_text())
    (path,) = on_photos.glob("evaluation-*.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert flat["masked_words/text_only/top5"] == metrics["masked_words"]["text_only"]["top5"]
    assert flat["training/steps"] == 20
    assert flat["training/samples"] == 160  # 16 samples/s for 5 s are the first ten steps
    assert flat["training/minutes"] == 0.5
    assert flat["training/parameters"] > 1000
    assert flat["training/device"] == "1 x 2 CPU threads"
    assert flat["training/epoch-1/negatives/synonyms"] == 50
    page = (on_photos / "report" / "report.html").read_text()
    assert "words replaced by a synonym" in page
    assert all(not isinstance(value, (dict, list)) for value in flat.values())


def test_negatives_differ_from_their_captions_where_marked(on_photos, on_scenes):
    for path in (on_photos / "report" / "report.html", on_scenes / "page" / "index.html"):
        page = path.read_text()
        pairs = re.findall(
            r'<p>([^\n]*?<span class="was">[^\n]*?)</p>[^\n]*?<p>([^\n]*?<mark>[^\n]*?)</p>', page
        )
        assert pairs
        for caption, negative in pairs:
            words = re.search(r'class="was">(.*?)</span>', caption)[1]
            other = re.search(r"<mark>(.*?)</mark>", negative)[1]
            assert words.lower() != other
            rest = re.sub(r'<span class="was">.*?</span>', "_", caption)
            assert rest == re.sub(r"<mark>.*?</mark>", "_", negative)


def test_says_where_to_look(on_photos, capsys):
    run(str(on_photos), ReportConfig(examples=2))
    said = capsys.readouterr().err
    assert f"wrote {on_photos}/report/report.html" in said
    assert said.endswith(f" in a browser\nnext: vilta serve {on_photos}\n")


def test_from_another_folder_and_with_the_keys_of_older_versions(tmp_path, monkeypatch):
    path = make_run(tmp_path / "project" / "runs" / "mine")
    photos(tmp_path / "project" / "data", CAPTIONS[:5])
    monkeypatch.chdir(tmp_path / "project")
    evaluate.run("runs/mine", EvaluateConfig(data="data", device="cpu"))
    file = tmp_path / "project" / "runs" / "mine" / "evaluation-data.json"
    evaluation = json.loads(file.read_text())
    evaluation["figures"] = evaluation.pop("metrics")
    evaluation["figures"]["negatives"] = {
        "grounded": {"written": 9.0, "still_true": 1.0, "no_sentence": 0.0}
    }
    file.write_text(json.dumps(evaluation))
    monkeypatch.chdir(tmp_path)
    written = run(path, ReportConfig(examples=3))
    assert written["evaluation"] == str(file) and written["data"] == "data"
    page = (tmp_path / "project/runs/mine/report/report.html").read_text()
    assert "9 % of the captions have one" in page


def test_the_rank_of_the_right_one_is_told_where_it_is_not_first(on_photos):
    page = (on_photos / "report" / "report.html").read_text()
    cards = re.findall(r'<div class="found">(.*?)</div>(.*)', page)
    assert cards
    for images, told in cards:
        first = images.startswith("<img") and 'class="right"' in images.split(">")[0]
        ranks = re.findall(r"the right image is at rank (\d+)", told)
        assert first == (not ranks)
        if ranks and int(ranks[0]) <= 5:
            assert 'class="right"' in images.split(">")[int(ranks[0]) - 1]


def test_words_with_which_a_scene_stays_true_are_right(on_scenes):
    task, trained, _ = load_run(str(on_scenes / "run"))
    (file,) = (on_scenes / "run").glob("evaluation-*.json")
    examples = collect_examples(task, trained, json.loads(file.read_text()), 8)
    assert len(examples.edited) >= 6
    for edited in examples.edited:
        scene = scene_from_id(f"scene-1-{edited.image}")
        assert is_true(scene, "".join(piece.text for piece in edited.caption))
        assert not is_true(scene, "".join(piece.text for piece in edited.negative))
    for masked in examples.masked:
        scene = scene_from_id(f"scene-1-{masked.image}")
        places = [i for i, piece in enumerate(masked.caption) if piece.mark]
        for place, views in zip(places, masked.guesses, strict=True):
            for guess in (guess for guesses in views.values() for guess in guesses):
                texts = [piece.text for piece in masked.caption]
                same = texts[place].lower() == guess.word.removeprefix("##")
                texts[place] = guess.word
                sentence = "".join(texts)
                true = parse(sentence) is not None and is_true(scene, sentence)
                # The same letters may be another token: a whole word in place of a piece.
                assert guess.right or not true
                assert same or true or not guess.right


def test_a_synonym_keeps_a_scene_true():
    scene = scene_from_id("scene-1-0")
    caption = next(c for c in captions(scene, 5) if any(map(synonyms, c.split())))
    word = next(word for word in caption.split() if synonyms(word))
    about = {"image_id": scene.image_id, "image_hash": 0, "index": 0, "epoch": 0, "name": ""}
    sample = Sample(pixels=torch.zeros(3, 8, 8, dtype=torch.uint8), caption=caption, **about)
    span = (caption.index(word), caption.index(word) + len(word))
    assert all(_stays_true(sample, span, other) for other in synonyms(word))
    assert not _stays_true(sample, span, "nonsense")


def test_a_run_without_negatives_says_so(tmp_path):
    path = make_run(tmp_path / "run", negatives="off")
    evaluate.run(path, EvaluateConfig(data="scenes:3?size=32", device="cpu"))
    run(path, ReportConfig(examples=2))
    assert "generates no negatives" in (tmp_path / "run/report/report.html").read_text()


@pytest.mark.parametrize(
    ("weights", "stage"), [({"itc_weight": 0.0}, "matching"), ({"itm_weight": 0.0}, "contrastive")]
)
def test_a_run_of_one_stage_is_ranked_by_that_alone(tmp_path, capsys, weights, stage):
    path = make_run(tmp_path / "run", **weights)
    evaluate.run(path, EvaluateConfig(data="scenes:4?size=32", device="cpu", top_k=1))
    (file,) = (tmp_path / "run").glob("evaluation-*.json")
    evaluation = json.loads(file.read_text())
    assert evaluation["candidates"] == ("all" if stage == "matching" else 1)
    run(path, ReportConfig(examples=3))
    page = (tmp_path / "run/report/report.html").read_text()
    assert f"{stage} alone, chance 25.0" in page
    for text in (capsys.readouterr().out, page):
        assert f"image to text, {stage}" in text and "combined" not in text
    captions = re.findall(r"<ol>(.*?)</ol>", page)
    assert all(found.count("<li") == 5 for found in captions), "no pair is left out"


@pytest.mark.parametrize(
    ("objective", "difference"),
    [
        ({"soft_labels": "language_model"}, "validation/mlm is without soft labels"),
        ({"negatives": "soft_label"}, "negatives are filtered by grounded instead of soft_label"),
        ({"teacher_filter_ratio": 0.01}, "the filter of negatives goes without the teacher"),
        ({"negative_generator": "frozen"}, "the current text encoder generates negatives instead"),
    ],
)
def test_a_missing_teacher_is_told_and_recorded(tmp_path, capsys, objective, difference):
    settings = {"teacher": str(tmp_path / "gone"), **objective}
    path = make_run(tmp_path / "run", **settings)
    evaluate.run(path, EvaluateConfig(data="scenes:3?size=32", device="cpu"))
    (file,) = (tmp_path / "run").glob("evaluation-*.json")
    recorded = json.loads(file.read_text())["teacher"]
    assert recorded.startswith("not found: ")
    assert recorded.rpartition("; ")[2].startswith(difference)
    assert str(tmp_path / "gone") in recorded and "\n" not in recorded
    run(path, ReportConfig(examples=2))
    assert capsys.readouterr().err.count(f"teacher {recorded}\n") == 2


def test_a_momentum_copy_is_missed_and_an_unneeded_teacher_is_not(tmp_path):
    missed = "not found: the momentum copy is not part of the released model; "
    labels = load_run(make_run(tmp_path / "labels", soft_labels="momentum"))[2]
    assert labels == missed + "validation/mlm is without soft labels"
    contrast = {"itc_targets": "momentum", "negatives": "off", "teacher_filter_ratio": 0.01}
    told = load_run(make_run(tmp_path / "contrast", **contrast))[2]
    assert told == missed + "validation/itc is of itc_targets pairs instead of momentum"
    for name, objective in {
        "alone": {},
        "meter": {"negatives": "off", "teacher_filter_ratio": 0.01},
        "none": {"negatives": "none"},
    }.items():
        assert load_run(make_run(tmp_path / name, **objective))[2] == "none needed"


def test_a_run_released_before_matching_began_is_measured_by_contrast_alone(tmp_path):
    path = make_run(tmp_path / "run", itm_start=9)
    evaluate.run(path, EvaluateConfig(data="scenes:3?size=32", device="cpu"))
    (file,) = (tmp_path / "run").glob("evaluation-*.json")
    assert set(json.loads(file.read_text())["metrics"]["retrieval"]) == {
        "contrastive",
        "mean_recall",
    }
    run(path, ReportConfig(examples=2))


def test_a_teacher_that_is_there_keeps_its_say_without_the_momentum_copy(tmp_path):
    path = Path(make_run(tmp_path / "run", soft_labels="momentum", teacher_filter_ratio=0.01))
    trained = load_yaml(path / "config.yaml", PretrainConfig)
    tokenizer = load_tokenizer(str(path / "model"))
    text = transformers.BertConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=128)
    transformers.BertForMaskedLM(text).save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    trained = replace(trained, model=replace(trained.model, text=str(tmp_path / "text")))
    save_yaml(trained, path / "config.yaml")
    task, _, told = load_run(str(path))
    assert task.teacher is not None and task.objective.teacher_filter_ratio == 0.01
    assert told.endswith("; validation/mlm is without soft labels")


def test_what_is_no_number_is_none_in_the_report_either(tmp_path):
    path = make_run(tmp_path / "run")
    evaluate.run(path, EvaluateConfig(data="scenes:3?size=32", device="cpu"))
    (file,) = (tmp_path / "run").glob("evaluation-*.json")
    evaluation = json.loads(file.read_text())
    evaluation["metrics"]["validation"]["itm"] = None  # as NaN is written
    file.write_text(json.dumps(evaluation))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('\n{"step": 30, "evaluation": {"retrieval/mean_recall": null}}\n')
    run(path, ReportConfig(examples=2))
    text = (tmp_path / "run" / "metrics.json").read_text()
    assert "NaN" not in text and json.loads(text)["validation/itm"] is None


def test_newest_evaluation_counts(tmp_path):
    path = make_run(tmp_path / "run")
    stale = tmp_path / "run" / "evaluation-a.json"
    stale.write_text("{}")
    os.utime(stale, (1, 1))
    config = EvaluateConfig(data="scenes:3?size=32", device="cpu")
    evaluate.run(path, config)
    newest = tmp_path / "run" / "evaluation-retrieval.json"
    evaluate.run(path, replace(config, task="retrieval", out=str(newest)))
    os.utime(newest, (2**32, 2**32))  # a task's metrics are others, whatever their file is called
    assert run(path, ReportConfig(examples=2))["evaluation"] != str(newest)
    os.utime(stale, (2**32, 2**32))
    with pytest.raises(ValueError, match=r"evaluation-a\.json is not an evaluation"):
        run(path, ReportConfig())


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="is not a run: it has no config"):
        run(str(tmp_path), ReportConfig())
    path = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="not evaluated yet; run: vilta evaluate") as caught:
        run(path, ReportConfig())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="examples is 0; it must be 2 or more"):
        run(path, ReportConfig(examples=0))
    with pytest.raises(ValueError, match="must name an HTML file"):
        run(path, ReportConfig(out=str(tmp_path)))


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_pieces_hold_the_whole_caption(caption, spans):
    spans = sorted((a, b) for a, b in spans if a <= b <= len(caption))
    spans = [s for s, before in zip(spans, [(0, 0), *spans], strict=False) if s[0] >= before[1]]
    pieces = _pieces(caption, spans)
    assert "".join(piece.text for piece in pieces) == caption
    assert sum(piece.mark for piece in pieces) == len(spans)
