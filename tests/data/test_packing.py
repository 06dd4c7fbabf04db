import hashlib
import io
import json

import datasets
import pytest
from PIL import Image

from vilta.config import PackConfig
from vilta.data import packing
from vilta.data.corpora import load_pairs
from vilta.data.packing import pack


def jpeg(width=40, height=30):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    contents = [jpeg(40 + i) for i in range(7)]
    contents[2] = b""
    contents[3] = b"<html>"
    contents[4] = jpeg(200, 3)
    lines = []
    for i, data in enumerate(contents):
        (root / f"{i}.jpg").write_bytes(data)
        lines.append(json.dumps({"file_name": f"{i}.jpg", "captions": [f"number {i}", "again"]}))
    lines.append(json.dumps({"file_name": "gone.jpg", "captions": ["gone"]}))
    lines.append(json.dumps({"file_name": "0.jpg", "captions": [" "]}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def test_packed_pairs_open_with_datasets_and_keep_their_bytes(folder, tmp_path):
    out = tmp_path / "deep" / "out"
    manifest = pack(str(folder), PackConfig(out=str(out), shard_rows=3))
    table = datasets.load_from_disk(str(out))
    assert table["image_id"][:] == ["0.jpg", "1.jpg", "5.jpg", "6.jpg"]
    assert table[3]["image"].size == (46, 30)
    plain = table.cast_column("image", datasets.Image(decode=False))
    assert plain[1]["image"]["bytes"] == (folder / "1.jpg").read_bytes()
    assert table.cache_files and len(table.cache_files) == 2  # mapped, two shards

    assert manifest == json.loads((out / "manifest.json").read_text())
    assert (manifest["rows"], manifest["captions"], manifest["skipped"]) == (4, 8, 4)
    for shard in manifest["shards"]:
        assert hashlib.sha256((out / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]
    reasons = {
        item["source"].rsplit("/", 1)[1]: item["reason"] for item in manifest["skipped_items"]
    }
    assert reasons["2.jpg"] == "empty file"
    assert "not an image" in reasons["3.jpg"]
    assert "too small: 200x3" in reasons["4.jpg"]
    assert "No such file" in reasons["gone.jpg"]


def test_load_pairs_maps_a_packed_folder(folder, tmp_path):
    out = tmp_path / "out"
    pack(str(folder), PackConfig(out=str(out)))
    table = load_pairs(str(out))
    assert len(table) == 4 and table.cache_files
    with pytest.raises(ValueError, match="no split 'val'; there are: none"):
        load_pairs(str(out), "val")


def test_packing_twice_gives_the_same_bytes(folder, tmp_path):
    shards = [
        pack(str(folder), PackConfig(out=str(tmp_path / name), shard_rows=2))["shards"]
        for name in ("a", "b")
    ]
    assert shards[0] == shards[1]


def test_shrinking(folder, tmp_path):
    pack(str(folder), PackConfig(out=str(tmp_path / "out"), short_side=15))
    assert {min(row["image"].size) for row in load_pairs(str(tmp_path / "out"))} == {15}


def test_strict_stops_and_leaves_nothing(folder, tmp_path):
    with pytest.raises(ValueError, match=r"2\.jpg: empty file"):
        pack(str(folder), PackConfig(out=str(tmp_path / "out"), strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_out_must_be_named_and_free(folder, tmp_path):
    with pytest.raises(ValueError, match="give --out"):
        pack(str(folder), PackConfig())
    with pytest.raises(ValueError, match="is not an empty folder"):
        pack(str(folder), PackConfig(out=str(folder)))
    (tmp_path / "empty").mkdir()
    pack(str(folder), PackConfig(out=str(tmp_path / "empty")))


def test_nothing_usable_is_an_error(folder, tmp_path):
    (folder / "metadata.jsonl").write_text('{"file_name": "3.jpg", "captions": ["x"]}')
    with pytest.raises(ValueError, match=r"no usable pair; 1 were skipped.*not an image"):
        pack(str(folder), PackConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(path, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "_write_shard", full)
    with pytest.raises(ValueError, match="out cannot be written: No space left"):
        pack(str(folder), PackConfig(out=str(tmp_path / "out")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
