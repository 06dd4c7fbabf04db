"""docs/new-source.md shows a reader and its commands; they are run here, letter for letter."""

import json
import re
import shlex
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from vilta import cli
from vilta.data.sources import find_reader, load_pairs
from vilta.scenes import captions, draw, make_scene

PAGE = (Path(__file__).parents[2] / "docs" / "new-source.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(python|bash)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))
NAME = "catalogue:Catalogue:photos/catalogue.db"


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """A folder with the guide's reader, and a catalogue of five photos, two of them unusable."""
    (tmp_path / "catalogue.py").write_text(BLOCKS["python"])
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = []
    for index in range(4):
        scene = make_scene(0, index)
        Image.fromarray(draw(scene, 32)).save(photos / f"{index}.png")
        rows.append((f"{index}.png", captions(scene)[0] if index else None))
    rows.append(("gone.png", "a photo that is not there"))
    with sqlite3.connect(photos / "catalogue.db") as database:
        database.execute("CREATE TABLE photos (file TEXT, note TEXT)")
        database.executemany("INSERT INTO photos VALUES (?, ?)", rows)
    database.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return dict(rows)


def test_the_commands_of_the_guide_work_as_they_stand(catalogue, tmp_path):
    inspect, pack, pretrain = BLOCKS["bash"].splitlines()
    for line in (inspect, pack):
        cli.run(shlex.split(line)[1:])
    manifest = json.loads((tmp_path / "data/photos/manifest.json").read_text())
    assert (manifest["reader"], manifest["rows"], manifest["skipped"]) == ("photo catalogue", 3, 2)
    reasons = [item["reason"] for item in manifest["skipped_items"]]
    assert reasons == ["no caption", "cannot be read: No such file or directory"]
    assert cli.parse(shlex.split(pretrain)[1:]).config.data.train == "data/photos"
    table = load_pairs(NAME)  # without packing, the same rows
    assert table["image_id"][:] == load_pairs("data/photos")["image_id"][:]
    assert table["captions"][:] == [[catalogue[f"{index}.png"]] for index in (1, 2, 3)]
    assert find_reader(NAME).total == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("catalogue:Catalog:photos/catalogue.db", "cannot be imported: .*Catalog.*new-source"),
        ("no_such_module:Reader:x", "cannot be imported: No module named"),
        ("catalogue:Path:x", "catalogue:Path is not a Reader; see docs/new-source.md"),
        ("catalogue:Catalogue:none.db", "no such catalogue: none.db"),
        (f"{NAME}?split=val", "options such as a split are for the class"),
        ("catalogue:catalogue", "no such file or folder"),
    ],
)
def test_what_a_name_gets_wrong_is_said(catalogue, name, message):
    with pytest.raises(ValueError, match=message):
        find_reader(name)


def test_a_file_whose_name_looks_like_a_class_is_a_file(catalogue, tmp_path):
    (tmp_path / "a:Title:here.jsonl").write_text('{"file_name": "photos/1.png", "text": "a dog"}\n')
    assert load_pairs("a:Title:here.jsonl")["captions"][:] == [["a dog"]]
