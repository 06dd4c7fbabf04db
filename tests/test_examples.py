"""The scripts in examples/ run as their first lines say."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilta import cli
from vilta.scenes import captions, draw, is_true, make_scene

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with three photos, in which the first example trains the run of the others."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    for index in range(3):
        Image.fromarray(draw(make_scene(5, index), 96)).save(folder / "photos" / f"{index}.png")
    return folder


def run(name, folder, monkeypatch, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_run_here():
    assert {file.name for file in EXAMPLES.glob("*.py")} == {
        "pretrain.py",
        "choose_caption.py",
        "search_photos.py",
        "negclip.py",
        "draw_scenes.py",
    }


@pytest.mark.parametrize("name", ["choose_caption.py", "search_photos.py"])
def test_without_arguments_the_call_is_shown(name, folder, monkeypatch):
    with pytest.raises(SystemExit, match=f"python examples/{name} runs/mine "):
        run(name, folder, monkeypatch)


def test_draw_scenes(folder, monkeypatch, capsys):
    run("draw_scenes.py", folder, monkeypatch, "drawn", "3")
    assert capsys.readouterr().out == "wrote 3 pictures to drawn\n"
    drawn = sorted((folder / "drawn").iterdir())
    assert [path.name for path in drawn] == [f"scene {i:03}.png" for i in range(3)]
    assert all(Image.open(path).size == (96, 96) for path in drawn)
    with pytest.raises(SystemExit, match="drawn exists already; name a new folder"):
        run("draw_scenes.py", folder, monkeypatch, "drawn", "3")


def test_the_readme_speaks_of_the_pictures_that_are_drawn(folder, monkeypatch):
    """Its picture is what its captions say, so that a search for them can find it."""
    run("draw_scenes.py", folder, monkeypatch, "many", "62")
    scene = make_scene(seed=2, index=61)
    assert (np.asarray(Image.open(folder / "many/scene 061.png")) == draw(scene)).all()
    assert "photos/scene 061.png" in (ROOT / "README.md").read_text()
    assert is_true(scene, "a red ball above a red cross")
    assert not is_true(scene, "a red ball above a blue cross")


def test_pretrain(folder, monkeypatch):
    """A second call begins anew, with its own data."""
    for pairs in ("scenes:8?seed=0&size=96", "scenes:40?seed=0&size=96"):
        run("pretrain.py", folder, monkeypatch, pairs, "2")
    assert (folder / "runs/example/run/model/model.safetensors").is_file()
    assert json.loads((folder / "runs/example/data/manifest.json").read_text())["rows"] == 40


def test_choose_caption(folder, monkeypatch, capsys):
    texts = [captions(make_scene(5, index))[0] for index in range(3)]
    run("choose_caption.py", folder, monkeypatch, "runs/example/run", "photos/0.png", *texts)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(maxsplit=1)[1] for line in lines[:3]) == sorted(texts)
    best = lines[0].split(maxsplit=1)[1]
    assert [line.split()[0] for line in lines[3:]] == best.split()


@pytest.mark.parametrize("more", ["2", "10"])
def test_negclip(more, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    negatives = ["negatives", "runs/example/run", "runs/example/data", "--filter", "none"]
    cli.run([*negatives, "--out", "negatives.parquet", "--device", "cpu"])
    capsys.readouterr()
    given = ("--data", "runs/example/data", "--negatives", "negatives.parquet")
    small = ("--steps", "2", "--more-steps", more, "--batch-size", "4", "--scenes", "6")
    run("negclip.py", folder, monkeypatch, *given, "--tokenizer", "runs/example/run/model", *small)
    lines = capsys.readouterr().out.splitlines()
    kinds = ["pre-trained", "continued", "continued with negatives"]
    assert [line.split(":")[0] for line in lines] == kinds
    assert all(" R@1 " in line and line.count("%") == 2 for line in lines)


def test_search_photos(folder, monkeypatch, capsys):
    arguments = ("runs/example/run", "photos", "a red circle")
    for state in ("3 new photos, 0 unchanged", "0 new photos, 3 unchanged"):
        run("search_photos.py", folder, monkeypatch, *arguments)
        first, *found = capsys.readouterr().out.splitlines()
        assert first.startswith(state) and len(found) == 3
