import json
import sys

import datasets
import pytest

from vilta import cli
from vilta.commands.pack import run
from vilta.config.tools import PackConfig
from vilta.data.pack import packing


def test_pack_says_what_it_wrote_and_what_comes_next(tmp_path, capsys):
    out = str(tmp_path / "scenes")
    run("scenes:12?seed=1&size=32", PackConfig(out=out, shard_rows=5))
    assert len(datasets.load_from_disk(out)) == 12
    captured = capsys.readouterr()
    assert "12 images" in captured.out and "3 shards" in captured.out
    assert captured.err.endswith(f"next: vilta inspect {out}\n")


def test_skipped_items_are_shown(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"x")
    (folder / "bad.txt").write_text("a caption")
    run_source = "scenes:1?size=32"
    run(run_source, PackConfig(out=str(folder / "good")))
    good = datasets.load_from_disk(str(folder / "good"))
    good[0]["image"].save(folder / "good.png")
    (folder / "good.txt").write_text("a scene")
    capsys.readouterr()
    run(str(folder), PackConfig(out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert "1 skipped" in said and "bad.jpg: not an image" in said


def test_an_interrupted_packing_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(self, row, digest):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing.Shard, "add", interrupt)
    call = ["vilta", "pack", "scenes:4?size=32", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def test_json_and_quiet(tmp_path, capsys):
    cli.run(["pack", "scenes:12?seed=1&size=32", "--out", str(tmp_path / "a"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said.pop("bytes") > 1000
    assert said == {
        "out": str(tmp_path / "a"),
        "shards": 1,
        "rows": 12,
        "captions": 60,
        "merged": 0,
        "skipped": 0,
    }
    cli.run(["pack", "scenes:12?seed=1&size=32", "--out", str(tmp_path / "b"), "-q"])
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and said.err == ""


def test_merged_images_are_counted(tmp_path, capsys):
    folder = tmp_path / "in"
    run("scenes:1?size=32", PackConfig(out=str(tmp_path / "one")))
    folder.mkdir()
    for name in ("a", "b"):
        datasets.load_from_disk(str(tmp_path / "one"))[0]["image"].save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a scene, {name}")
    run(str(folder), PackConfig(out=str(tmp_path / "out")))
    said = capsys.readouterr().out
    assert "1 image with 2 captions" in said and "(1 shard, " in said
    assert "1 duplicate was merged with its captions" in said
