import datasets

from vilta.config import PackConfig
from vilta.recipes.pack import run


def test_pack_says_what_it_wrote_and_what_comes_next(tmp_path, capsys):
    out = str(tmp_path / "scenes")
    run("scenes:12?seed=1&size=32", PackConfig(out=out, shard_rows=5))
    assert len(datasets.load_from_disk(out)) == 12
    said = capsys.readouterr().out
    assert "12 images" in said and "3 shards" in said
    assert f"--data.train {out}" in said


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
