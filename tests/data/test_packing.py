import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import time

import datasets
import pytest
from PIL import Image

from vilta.config.tools import PackConfig
from vilta.data.pack import packing
from vilta.data.pack.packing import pack
from vilta.data.sources import FEATURES, load_pairs
from vilta.decoding import decode_image


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
        item["source"].rpartition("/")[2]: item["reason"] for item in manifest["skipped_items"]
    }
    assert reasons["2.jpg"] == "empty file"
    assert "not an image" in reasons["3.jpg"]
    assert "too small: 200x3" in reasons["4.jpg"]
    assert "no such image" in reasons["gone.jpg"]


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
    with pytest.raises(ValueError, match=r"gone\.jpg: no such image"):
        pack(str(folder), PackConfig(out=str(tmp_path / "out"), strict=True))
    (folder / "gone.jpg").write_bytes(jpeg(40))
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
    with pytest.raises(ValueError, match=r"no usable pair; 7 were skipped.*not an image"):
        pack(str(folder), PackConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def content_of(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture
def many(tmp_path):
    """30 images: bad ones, and copies near and far, each with a caption of its own."""
    root = tmp_path / "many"
    root.mkdir()
    lines = []
    for i in range(30):
        data = jpeg(40 + (i if i % 7 else 1))  # 0, 7, 14, ... are copies of 1
        (root / f"{i}.jpg").write_bytes(b"bad" if i % 10 == 9 else data)
        lines.append(json.dumps({"file_name": f"{i}.jpg", "captions": [f"number {i}", "again"]}))
        if i % 8 == 3:
            lines.append(json.dumps({"file_name": f"gone-{i}.jpg", "captions": ["gone"]}))
            lines.append("no json")
    (root / "metadata.jsonl").write_text("\n".join(lines))
    (root / "not-named.jpg").write_bytes(jpeg())
    return root


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_any_number_of_workers_gives_the_same_bytes(many, tmp_path, form):
    settings = {"shard_rows": 4, "short_side": 20, "format": form}
    found = []
    for workers in (1, 2, 5):
        out = tmp_path / f"{workers}"
        pack(str(many), PackConfig(out=str(out), workers=workers, **settings))
        found.append(content_of(out))
    assert found[0] == found[1] == found[2]


class Killed(BaseException):
    """What nothing catches."""


def test_progress_counts_what_is_skipped_and_never_passes_its_total(folder, tmp_path):
    with (folder / "metadata.jsonl").open("a") as lines:
        lines.write('\n{"captions": ["of no image"]}')
    told = []
    pack(str(folder), PackConfig(out=str(tmp_path / "out")), lambda *step: told.append(step))
    assert [done for done, _ in told] == list(range(10))  # 4 rows and 5 that are skipped
    assert told[-1] == (9, 9) and all(done <= total for done, total in told)


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_an_interrupted_packing_goes_on_to_the_same_bytes(many, tmp_path, monkeypatch, form):
    settings = {"shard_rows": 4, "format": form}
    pack(str(many), PackConfig(out=str(tmp_path / "whole"), **settings))
    write_json, replace, write = packing.write_json, os.replace, packing.Writer.write
    decoded, calls = [], 0

    def once_more(function, stop):
        def wrapped(*args):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Killed
            return function(*args)

        return wrapped

    def decode(data):
        decoded.append(data)
        return decode_image(data)

    monkeypatch.setattr(packing, "decode_image", decode)
    out, stop = tmp_path / "out", 0
    while not out.exists():
        # It goes a little further each time: writing, merging captions, naming the shards.
        stop, calls = stop + 1, 0
        monkeypatch.setattr(packing.Writer, "write", once_more(write, stop))
        monkeypatch.setattr(packing, "write_json", once_more(write_json, stop))
        monkeypatch.setattr(packing.os, "replace", once_more(replace, stop))
        with contextlib.suppress(Killed):
            pack(str(many), PackConfig(out=str(out), **settings))
    assert stop > 3
    assert content_of(out) == content_of(tmp_path / "whole")
    assert len(decoded) < 3 * 30 and sorted(p.name for p in tmp_path.iterdir()) == [
        "many",
        "out",
        "whole",
    ]


def stopped(source, out, monkeypatch, shards):
    """Stop a packing that begins anew, or goes on, after some more shards."""
    write, calls = packing.Writer.write, []

    def wrapped(*args):
        if len(calls) == shards:
            raise Killed
        calls.append(write(*args))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(packing.Writer, "write", wrapped)
        pack(str(source), PackConfig(out=str(out), shard_rows=4))


CHANGES = {
    "an item less": lambda lines: lines[1:],
    "another order": lambda lines: lines[::-1],
    "too few items": lambda lines: lines[:2],
    "other captions": lambda lines: [line.replace("again", "once more") for line in lines],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_has_changed_is_not_gone_on_with(many, tmp_path, monkeypatch, change):
    out, table = tmp_path / "out", many / "metadata.jsonl"
    stopped(many, out, monkeypatch, 2)
    lines = table.read_text().split("\n")
    table.write_text("\n".join(CHANGES[change](lines)))
    with pytest.raises(ValueError, match=r"has changed since; delete .*\.out\.partial to pack it"):
        pack(str(many), PackConfig(out=str(out), shard_rows=4))
    more = json.dumps({"file_name": "not-named.jpg", "captions": ["now it is"]})
    table.write_text("\n".join([*lines, more]))  # as it was, up to where it was stopped
    pack(str(many), PackConfig(out=str(out), shard_rows=4))
    pack(str(many), PackConfig(out=str(tmp_path / "whole"), shard_rows=4))
    assert content_of(out) == content_of(tmp_path / "whole")


def test_a_killed_process_goes_on(tmp_path):
    out, journal = tmp_path / "out", tmp_path / ".out.partial" / "journal.jsonl"
    source = "scenes:600?size=32"
    command = [sys.executable, "-m", "vilta", "pack", source, "--shard-rows", "50"]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
    while process.poll() is None and (not journal.exists() or len(journal.read_text()) < 3000):
        time.sleep(0.005)
    process.kill()
    process.wait()
    pack(source, PackConfig(out=str(tmp_path / "whole"), shard_rows=50))
    if not out.exists():  # a very fast machine may have finished
        pack(source, PackConfig(out=str(out), shard_rows=50))
    assert content_of(out) == content_of(tmp_path / "whole")


def test_other_settings_begin_anew(many, tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(packing.Writer, "write", full)
        with pytest.raises(ValueError, match=r"^[^\n]*out cannot be written: No space left"):
            pack(str(many), PackConfig(out=str(out), shard_rows=4))
    pack(str(many), PackConfig(out=str(out), shard_rows=5))
    pack(str(many), PackConfig(out=str(tmp_path / "whole"), shard_rows=5))
    assert content_of(out) == content_of(tmp_path / "whole")


def test_duplicates_are_merged_and_their_captions_joined(many, tmp_path):
    manifest = pack(str(many), PackConfig(out=str(tmp_path / "out"), shard_rows=4))
    table = datasets.load_from_disk(str(tmp_path / "out"))
    first = table[0]
    assert first["image_id"] == "0.jpg"
    assert first["captions"] == ["number 0", "again", *(f"number {i}" for i in (1, 7, 14, 21, 28))]
    assert [item["row"] for item in manifest["merged_items"]] == [0] * 5
    assert manifest["merged"] == 5 and manifest["rows"] == len(table) == 30 - 3 - 5
    for shard in manifest["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
    assert manifest["captions"] == sum(len(row) for row in table["captions"])
    apart = pack(str(many), PackConfig(out=str(tmp_path / "apart"), merge_duplicates=False))
    assert apart["merged"] == 0 and apart["rows"] == 27


def test_parquet_is_read_by_datasets_and_by_vilta(folder, tmp_path):
    out = tmp_path / "out"
    pack(str(folder), PackConfig(out=str(out), format="parquet", shard_rows=3))
    files = [str(f) for f in sorted(out.glob("*.parquet"))]
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert table.features == FEATURES and table[3]["image"].size == (46, 30)
    assert load_pairs(str(out))["captions"][:] == table["captions"][:]


def test_push_uploads_the_pairs(folder, tmp_path, monkeypatch):
    uploads = []
    monkeypatch.setattr(
        datasets.Dataset,
        "push_to_hub",
        lambda self, repo, split: uploads.append((repo, split, self["image_id"][:])),
    )
    pack(str(folder), PackConfig(out=str(tmp_path / "out"), push="me/pairs"))
    assert uploads == [("me/pairs", "train", ["0.jpg", "1.jpg", "5.jpg", "6.jpg"])]


def pack_and_tell(source, out, told):
    try:
        told.put(pack(source, PackConfig(out=out))["rows"])
    except ValueError as error:
        told.put(str(error))


def test_of_two_at_once_one_is_refused_and_the_other_unharmed(tmp_path):
    """The first one to hold the folder packs; the others name it, or find the folder full."""
    source, out = "scenes:200?seed=0&size=32", str(tmp_path / "out")
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    children = [context.Process(target=pack_and_tell, args=(source, out, told)) for _ in range(3)]
    for child in children:
        child.start()
    answers = sorted((told.get(timeout=120) for _ in children), key=lambda a: a != 200)
    for child in children:
        child.join()
    assert answers[0] == 200, answers
    assert all("is being written by process" in a or "is not an empty" in a for a in answers[1:]), (
        answers
    )
    pack(source, PackConfig(out=str(tmp_path / "alone")))
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]
