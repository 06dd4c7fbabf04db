"""The verbs that use a trained model, on a tiny random run."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import noise, write_run
from tiny_models import SIZE
from transformers import DebertaConfig, DebertaForMaskedLM

from vilta import Matcher, cli
from vilta.commands import clean, evaluate, inspect, match, negatives, proofread, report, search
from vilta.config import ObjectiveConfig
from vilta.config.apps import (
    CleanConfig,
    MatchConfig,
    NegativesConfig,
    ProofreadConfig,
    SearchConfig,
)
from vilta.config.tools import EvaluateConfig, InspectConfig, ReportConfig
from vilta.model.language_model import load_tokenizer


def lines(capsys):
    out = capsys.readouterr()
    return [json.loads(line) for line in out.out.splitlines()], out.err


@pytest.fixture
def index(tmp_path):
    return str(tmp_path / "index")


def test_search_prints_what_matches_well(tiny_run, photo_folder, index, capsys):
    run = [str(tiny_run), str(photo_folder), "a red ball"]
    search.run(*run, SearchConfig(index=index, json=True, threshold=0.0, top=4))
    found, notes = lines(capsys)
    assert "indexed 6 new photos" in notes and len(found) == 4
    chances = [each["probability"] for each in found]
    best = Matcher(tiny_run, device="cpu").match(found[0]["path"], "a red ball")
    assert chances[0] == pytest.approx(float(best[0]), abs=1e-4)
    bar = sorted(chances)[-2]
    search.run(*run, SearchConfig(index=index, json=True, threshold=bar))
    well, notes = lines(capsys)
    assert {each["path"] for each in well} >= {f["path"] for f in found if f["probability"] >= bar}
    assert all(each["probability"] >= bar for each in well) and "indexed" not in notes


def test_search_shows_as_many_as_are_asked_for(tiny_run, photo_folder, index, capsys):
    """Only a photo that was re-ranked has a probability, and can be shown."""
    config = SearchConfig(index=index, json=True, threshold=0.0, top=5, rerank=2)
    search.run(str(tiny_run), str(photo_folder), "a red ball", config)
    found, _ = lines(capsys)
    assert len(found) == 5 and all(each["probability"] > 0 for each in found)


def test_a_photo_to_be_like_that_is_not_there_is_told_before_the_work(
    tiny_run, photo_folder, tmp_path
):
    config = SearchConfig(index=str(tmp_path / "index"), like=str(photo_folder / "nowhere.png"))
    with pytest.raises(ValueError, match=r"nowhere\.png: No such file or directory$"):
        search.run(str(tiny_run), str(photo_folder), "", config)
    assert not (tmp_path / "index").exists()


def test_an_index_among_the_photos_is_no_photo(tiny_run, photo_folder, capsys):
    config = SearchConfig(index=str(photo_folder / "index"), json=True, threshold=0.0)
    for _ in range(2):
        search.run(str(tiny_run), str(photo_folder), "a red ball", config)
        found, notes = lines(capsys)
        assert len(found) == 6 and "cannot be read" not in notes
    assert notes == "" or "indexed" not in notes, "the index does not change what is indexed"


def test_search_says_that_nothing_matches(tiny_run, photo_folder, index, capsys, tmp_path):
    page = str(tmp_path / "found.html")
    config = SearchConfig(index=index, threshold=1.0, out=page)
    search.run(str(tiny_run), str(photo_folder), "a red ball", config)
    out = capsys.readouterr()
    assert out.out == "" and "nothing here matches well (the best: " in out.err
    assert "Nothing here matches well." in (tmp_path / "found.html").read_text()


def test_odd_names_are_one_printable_line_each(tiny_run, tmp_path, capsysbinary):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [b"latin-\xe9.png", b"new\nline.png", b"red \x1b[31m.png", "Ünïcode ✓.png".encode()]
    for number, name in enumerate(names):
        noise(number).save(os.path.join(os.fsencode(folder), name), "PNG")
    page, index = str(tmp_path / "found.html"), str(tmp_path / "index")
    search.run(
        str(tiny_run), str(folder), "a red ball", SearchConfig(index=index, threshold=0.0, out=page)
    )
    search.run(
        str(tiny_run),
        str(folder),
        "a red ball",
        SearchConfig(index=index, threshold=0.0, json=True),
    )
    out = capsysbinary.readouterr().out
    plain, lines = out.splitlines()[:4], [json.loads(line) for line in out.splitlines()[4:]]
    wanted = [rb"latin-\xe9.png", rb"new\nline.png", rb"red \x1b[31m.png", names[3]]
    assert sorted(line.partition(b"photos/")[2] for line in plain) == sorted(wanted)
    found = {os.path.basename(os.fsencode(line["path"])) for line in lines}
    assert found == set(names), "JSON names the files themselves"
    text = Path(page).read_text(encoding="utf-8")
    assert all(name.decode() in text for name in wanted)


def test_search_writes_a_gallery_and_names_what_it_skipped(
    tiny_run, photo_folder, index, capsys, tmp_path
):
    (photo_folder / "broken <b>.jpg").write_bytes(b"no photo")
    page = tmp_path / "found.html"
    config = SearchConfig(index=index, like=str(photo_folder / "photo 2.png"), out=str(page))
    search.run(str(tiny_run), str(photo_folder), "", config)
    out = capsys.readouterr()
    assert "1 file cannot be read; --why-skipped lists them" in out.err
    assert out.out.splitlines()[0].endswith("photo 2.png") and "nan" not in out.out
    html = page.read_text(encoding="utf-8")
    assert html.count("<img") == 6 and "Ünïcode ✓.PNG" in html
    assert not re.search(r'src="(?!data:)', html)
    search.run(str(tiny_run), str(photo_folder), "", SearchConfig(index=index, why_skipped=True))
    out = capsys.readouterr()
    assert "broken <b>.jpg: not an image" in out.out and "6 photos are indexed" in out.err


def test_match_prints_captions_best_first_with_their_words(tiny_run, capsys, tmp_path):
    noise(0, (60, 80)).save(tmp_path / "x.png")
    captions = ["two dogs", "a red ball", "an old boat"]
    chances = Matcher(tiny_run, device="cpu").match(tmp_path / "x.png", captions)
    config = MatchConfig(json=True, out=str(tmp_path / "heat.png"))
    match.run(str(tiny_run), str(tmp_path / "x.png"), captions, config)
    found, notes = lines(capsys)
    assert [f["caption"] for f in found] == [captions[i] for i in np.argsort(-chances)]
    assert [w["word"] for w in found[0]["words"]] == found[0]["caption"].split()
    assert "not calibrated" in notes
    for name in ("heat.png", "heat-2.png", "heat-3.png"):
        assert Image.open(tmp_path / name).format == "PNG"
    match.run(str(tiny_run), str(tmp_path / "x.png"), captions[:1], MatchConfig())
    assert re.fullmatch(r" ?\d+\.\d%  two dogs\n +two [+-].*dogs [+-].*\n", capsys.readouterr().out)


def test_proofread_prints_every_word(tiny_run, capsys, tmp_path):
    noise(0).save(tmp_path / "x.png")
    run = [str(tiny_run), str(tmp_path / "x.png"), "a small unbelievable ball"]
    proofread.run(*run, ProofreadConfig(json=True))
    ((found,), _) = lines(capsys)
    wanted = Matcher(tiny_run, device="cpu").proofread(tmp_path / "x.png", run[2])
    assert [w["word"] for w in found["words"]] == ["a", "small", "unbelievable", "ball"]
    assert found["corrected"] == wanted.corrected
    proofread.run(*run, ProofreadConfig())
    text = capsys.readouterr().out
    assert "unbelievable" in text and ("every word fits" in text or "would write:" in text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "RUN", "PHOTOS", "x", "--top", "0"], "top is 0; it must be 1 or more"),
        (["search", "RUN", "nowhere", "x"], "no such folder: nowhere"),
        (["match", "RUN", "nothing.png", "x"], "nothing.png: No such file"),
        (["match", "RUN", "PHOTOS", "x", "--out", "x.jpg"], "--out must name a PNG file"),
        (["proofread", "nothing", "x.png", "x"], "nothing"),
        (["match", "RUN", "PHOTO", "x", "caf\udce9"], r"the text 'caf\xe9' is not UTF-8"),
        (["proofread", "RUN", "PHOTO", "caf\udce9"], r"the text 'caf\xe9' is not UTF-8"),
        (["search", "RUN", "PHOTOS", "caf\udce9"], r"the text 'caf\xe9' is not UTF-8"),
        (["search", "RUN", "PHOTOS", "x", "--minus", "caf\udce9"], "is not UTF-8"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(
    tiny_run, photo_folder, monkeypatch, capsys, arguments, words
):
    photo = os.path.join(os.fsencode(photo_folder), b"caf\xe9.png")  # a name need not be UTF-8
    noise(0).save(photo, "PNG")
    names = {"RUN": str(tiny_run), "PHOTOS": str(photo_folder), "PHOTO": os.fsdecode(photo)}
    monkeypatch.setattr("sys.argv", ["vilta", *(names.get(word, word) for word in arguments)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(photo_folder.parent / "cache"))
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and error.startswith("error: ") and words in error


def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tiny_run, photo_folder, tmp_path, monkeypatch
):
    """Hours of work must not end in an error about its output; a missing folder is made."""
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    monkeypatch.setattr("vilta.apps.matcher.load_released", worked)
    monkeypatch.setattr("vilta.commands.negatives.load_run", worked)
    monkeypatch.setattr("vilta.commands.evaluate.load_run", worked)
    monkeypatch.setattr("vilta.commands.report.load_run", worked)
    run, data = str(tiny_run), "scenes:3?size=32"
    calls = (
        lambda: search.run(run, str(photo_folder), "x", SearchConfig(out=f"{below}/x.html")),
        lambda: match.run(run, "x.png", ["x"], MatchConfig(out=f"{below}/x.png")),
        lambda: clean.run(run, data, CleanConfig(out=f"{below}/x")),
        lambda: negatives.run(run, data, NegativesConfig(out=f"{below}/x.parquet")),
        lambda: evaluate.run(run, EvaluateConfig(data=data, out=f"{below}/x.json")),
        lambda: report.run(run, ReportConfig(out=f"{below}/x.html")),
        lambda: inspect.run(data, InspectConfig(out=f"{below}/x.html")),
    )
    for call in calls:
        with pytest.raises(OSError) as error:
            call()
        assert error.value.strerror.endswith(", choose another place to write")
        assert error.value.filename.startswith(f"{below}/x")
    monkeypatch.undo()
    page = tmp_path / "new" / "found.html"
    config = SearchConfig(index=str(tmp_path / "index"), threshold=0.0, out=str(page))
    search.run(run, str(photo_folder), "x", config)
    assert page.is_file()


def worked(*_, **__):
    raise AssertionError("the work began")


def test_a_page_never_takes_the_place_of_a_photo(tiny_run, photo_folder):
    photo = photo_folder / "photo 0.png"
    before = photo.read_bytes()
    with pytest.raises(ValueError, match="must name an HTML file"):
        search.run(str(tiny_run), str(photo_folder), "x", SearchConfig(out=str(photo)))
    with pytest.raises(ValueError, match="must name an HTML file"):
        inspect.run("scenes:3?size=32", InspectConfig(out=str(photo)))
    assert photo.read_bytes() == before


def test_a_folder_without_photos_is_told_as_one(tiny_run, tmp_path, index, capsys):
    (tmp_path / "empty").mkdir()
    search.run(str(tiny_run), str(tmp_path / "empty"), "a red ball", SearchConfig(index=index))
    told = capsys.readouterr().err
    assert "there are no photos in" in told and "matches well" not in told


def test_words_beyond_what_the_model_reads_are_told(tiny_run, photo_folder, capsys):
    photo = str(photo_folder / "photo 0.png")
    match.run(str(tiny_run), photo, ["a red ball", "a red ball " * 200], MatchConfig())
    proofread.run(str(tiny_run), photo, "a red ball " * 200, ProofreadConfig())
    told = re.findall(
        r"reads \d+ tokens; the last (\d+) words of a caption, from '(\w+)'",
        capsys.readouterr().err,
    )
    assert len(told) == 2 and told[0] == told[1] and 500 < int(told[0][0]) < 600


def test_match_shows_all_captions_or_none(tiny_run, photo_folder, capsys):
    photo = str(photo_folder / "photo 0.png")
    for captions in (["a red ball", "..."], ["...", "a red ball"]):
        with pytest.raises(ValueError, match="no word that the model knows"):
            match.run(str(tiny_run), photo, captions, MatchConfig())
    assert capsys.readouterr().out == ""


def test_how_to_calibrate_names_the_model(tiny_run, photo_folder, capsys):
    """A released folder does not say its task, which the call must."""
    photo = str(photo_folder / "photo 0.png")
    for place, task in ((tiny_run, ""), (tiny_run / "model", "--task retrieval ")):
        match.run(str(place), photo, ["a red ball"], MatchConfig())
        wanted = f"evaluate {place} {task}--data DATA --calibrate"
        assert wanted in capsys.readouterr().err


def test_the_run_of_somebody_else_can_be_measured(tiny_run, tmp_path, monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "README.md")

    monkeypatch.setattr("vilta.commands.evaluate.update_card", refuse)
    out = tmp_path / "new" / "result.json"
    evaluate.run(str(tiny_run), EvaluateConfig(data="scenes:4?size=32", out=str(out), top_k=2))
    assert json.loads(out.read_text())["images"] == 4
    assert "model card was not updated (Permission denied)" in capsys.readouterr().err


def test_a_teacher_that_cannot_compute_in_bf16_is_told_before_the_evaluation(tmp_path):
    teacher = tmp_path / "teacher"
    run = write_run(tmp_path / "run", objective=ObjectiveConfig(teacher=str(teacher)))
    tokenizer = load_tokenizer(str(run / "model"))
    config = DebertaConfig(**SIZE, vocab_size=len(tokenizer), max_position_embeddings=64)
    for part in (DebertaForMaskedLM(config), tokenizer):
        part.save_pretrained(teacher)
    asked = EvaluateConfig(data="scenes:4?size=32", precision="bf16", device="cpu")
    with pytest.raises(ValueError, match=r"DebertaForMaskedLM cannot .* --precision float32"):
        evaluate.run(str(run), asked)
