"""Bad data of every kind: skipped, counted and named, never fatal; fatal in one line if strict."""

import io
import json
import os
import struct
import tarfile
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack


def encoded(image, kind="JPEG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def noise(width=40, height=30, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


GOOD = encoded(noise())
PNG = encoded(noise(), "PNG")


def bomb(width, height):
    """A PNG of a few bytes whose header promises any number of pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), exif=exif)


UNUSABLE = {
    "empty": b"",
    "one byte": b"\xff",
    "zeros": bytes(500),
    "text": b"not found",
    "html": b"<!doctype html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"/>',
    "json": b'{"error": "gone"}',
    "pdf": b"%PDF-1.4\n%%EOF",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "jpeg cut in the header": GOOD[:20],
    "jpeg cut in the middle": GOOD[: len(GOOD) // 2],
    "png cut in the header": PNG[:25],
    "png cut in the middle": PNG[: len(PNG) // 2],
    "png with a wrong checksum": PNG[:40] + bytes([PNG[40] ^ 255]) + PNG[41:],
    "1 x 1": encoded(noise(1, 1), "PNG"),
    "4 x 200": encoded(noise(4, 200), "PNG"),
    "60,000 x 1": encoded(Image.new("RGB", (60_000, 1)), "PNG"),
    "bomb, 100 MP": bomb(10_000, 10_000),
    "bomb, 4 TP": bomb(2_000_000, 2_000_000),
    "width 0": bomb(0, 40),
    "webp cut": encoded(noise(), "WEBP")[:40],
    "gif cut": encoded(noise(), "GIF")[:20],
    "tiff cut": encoded(noise(), "TIFF")[:90],
}
USABLE = {
    "wrong suffix": PNG,
    "cmyk": encoded(noise(mode="CMYK")),
    "grey": encoded(noise(mode="L")),
    "grey and alpha": encoded(noise(mode="LA"), "PNG"),
    "alpha": encoded(noise(mode="RGBA"), "PNG"),
    "palette": encoded(noise(mode="P"), "PNG"),
    "palette, transparent": encoded(noise(mode="P"), "GIF", transparency=0),
    "16 bit": encoded(Image.fromarray(np.full((30, 40), 40_000, dtype=np.uint16)), "PNG"),
    "1 bit": encoded(noise(mode="1"), "PNG"),
    "animated": encoded(noise(), "GIF", save_all=True, append_images=[noise(mode="L")]),
    "rotated by exif": rotated(),
    "broken exif": encoded(noise(), exif=b"Exif\0\0garbage"),
    "junk behind the end": GOOD + bytes(100),
    "progressive": encoded(noise(), progressive=True),
}


def write_folder(root, image=GOOD, caption="a caption", name="bad.jpg"):
    """Two good pairs, and one that is not."""
    root.mkdir()
    for good in ("a", "z"):
        pixels = noise(40 + ord(good) % 7)
        (root / f"{good}.jpg").write_bytes(encoded(pixels))
    lines = [
        {"file_name": n, "text": c} for n, c in (("a.jpg", "x"), (name, caption), ("z.jpg", "x"))
    ]
    if image is not None:
        (root / name).write_bytes(image)
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def assert_skipped(source, tmp_path, rows=2, **settings):
    """The good pairs stay, the bad one is named with a reason of one line; strict stops at it."""
    manifest = pack(str(source), PackConfig(out=str(tmp_path / "out"), **settings))
    assert manifest["rows"] == rows and manifest["skipped"] >= 1
    for item in manifest["skipped_items"]:
        assert item["source"] and item["reason"] and "\n" not in item["reason"]
    for row in datasets.load_from_disk(str(tmp_path / "out")):
        assert row["image"].convert("RGB").size[1] == 30
    with pytest.raises(ValueError) as told:  # the reasons are many
        pack(str(source), PackConfig(out=str(tmp_path / "strict"), strict=True, **settings))
    assert "\n" not in str(told.value) and not (tmp_path / "strict").exists()


@pytest.mark.parametrize("kind", UNUSABLE)
def test_images_that_cannot_be_used(tmp_path, kind):
    assert_skipped(write_folder(tmp_path / "in", UNUSABLE[kind]), tmp_path)


@pytest.mark.parametrize("kind", USABLE)
def test_odd_images_that_are_images_all_the_same(tmp_path, kind):
    source = write_folder(tmp_path / "in", USABLE[kind])
    manifest = pack(str(source), PackConfig(out=str(tmp_path / "out"), strict=True, short_side=16))
    assert manifest["rows"] == 3
    shrunk = datasets.load_from_disk(str(tmp_path / "out"))[1]["image"]
    assert shrunk.mode == "RGB" and min(shrunk.size) == 16
    assert (shrunk.height > shrunk.width) == (kind == "rotated by exif")


@pytest.mark.parametrize(
    "caption", ["", "   ", "\t\n", "\0", [], ["", " "], None, 5, {"a": 1}, [None, 3], True]
)
def test_captions_that_say_nothing(tmp_path, caption):
    assert_skipped(write_folder(tmp_path / "in", caption=caption), tmp_path)


@pytest.mark.parametrize(
    ("caption", "kept"),
    [
        ("nul \0 inside", "nul inside"),
        ("a \ud83d lone surrogate", "a ? lone surrogate"),
        ("مرحبا بالعالم", "مرحبا بالعالم"),
        ("a 🐶 on grass", "a 🐶 on grass"),
        ("two\nlines\r\n", "two lines"),
        (["one", "", None, "two"], ["one", "two"]),
        ("word " * 20_000, "word " * 19_999 + "word"),
    ],
)
def test_odd_captions_are_cleaned(tmp_path, caption, kept):
    source = write_folder(tmp_path / "in", caption=caption)
    pack(str(source), PackConfig(out=str(tmp_path / "out"), strict=True, merge_duplicates=False))
    found = datasets.load_from_disk(str(tmp_path / "out"))[1]["captions"]
    assert found == (kept if isinstance(kept, list) else [kept])


def link_to_nothing(path):
    path.symlink_to("nowhere.jpg")


def link_in_a_circle(path):
    path.symlink_to(path.name)


def folder_of_that_name(path):
    path.mkdir()


def no_permission(path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.write_bytes(GOOD)
    path.chmod(0)


@pytest.mark.parametrize(
    "make", [link_to_nothing, link_in_a_circle, folder_of_that_name, no_permission]
)
def test_files_that_cannot_be_read(tmp_path, make):
    source = write_folder(tmp_path / "in", image=None)
    make(source / "bad.jpg")
    assert_skipped(source, tmp_path)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "", ".", "x/../../a.jpg"])
def test_names_that_lead_elsewhere(tmp_path, name):
    source = write_folder(tmp_path / "in")
    text = (source / "metadata.jsonl").read_text().replace('"bad.jpg"', json.dumps(name))
    (source / "metadata.jsonl").write_text(text)
    assert_skipped(source, tmp_path)


@pytest.mark.parametrize("line", ['{"file_name": "a', "[]", "null", "5", "\ufffd"])
def test_lines_that_are_no_rows(tmp_path, line):
    source = write_folder(tmp_path / "in")
    lines = (source / "metadata.jsonl").read_text().splitlines()
    (source / "metadata.jsonl").write_text("\n".join([lines[0], line, lines[2]]))
    assert_skipped(source, tmp_path)


def member(archive, name, data=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    archive.addfile(info, io.BytesIO(data) if data else None)


BAD_MEMBERS = {
    "no image": [("b.txt", b"text")],
    "a broken image": [("b.jpg", b"<html>"), ("b.txt", b"text")],
    "no caption": [("b.jpg", GOOD)],
    "an empty caption": [("b.jpg", GOOD), ("b.txt", b" ")],
    "broken json": [("b.jpg", GOOD), ("b.json", b'{"caption": "cut')],
    "far apart": [("a.txt", b"again")],
    "a link": [("b.jpg", tarfile.SYMTYPE), ("b.txt", b"text")],
    "a hard link": [("b.jpg", tarfile.LNKTYPE), ("b.txt", b"text")],
    "a device": [("b.jpg", tarfile.CHRTYPE), ("b.txt", b"text")],
}


@pytest.mark.parametrize("kind", BAD_MEMBERS)
def test_members_of_tars(tmp_path, kind):
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        member(archive, "a.jpg", encoded(noise(41)))
        member(archive, "a.txt", b"x")
        member(archive, "m.jpg", encoded(noise(42)))
        member(archive, "m.txt", b"x")
        for name, content in BAD_MEMBERS[kind]:
            if isinstance(content, str | int) or len(content) == 1:
                member(archive, name, kind=content, link="/etc/passwd")
            else:
                member(archive, name, content)
    assert_skipped(tmp_path / "in.tar", tmp_path)


@pytest.mark.parametrize("picture", [2, 6, 11])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_that_end_early(tmp_path, picture, mode):
    """Within a picture. A tar that is cut between two members looks like a shorter one."""
    with tarfile.open(tmp_path / "in.tar", mode) as archive:
        for i in range(12):
            member(archive, f"{i}.jpg", encoded(noise(40 + i)))
            member(archive, f"{i}.txt", b"x")
    data = (tmp_path / "in.tar").read_bytes()
    place = data.index(b"%d.jpg" % picture) + 700 if mode == "w" else len(data) * picture // 13
    (tmp_path / "in.tar").write_bytes(data[:place])
    manifest = pack(str(tmp_path / "in.tar"), PackConfig(out=str(tmp_path / "out")))
    assert 0 < manifest["rows"] < 12 and "ends early" in manifest["skipped_items"][-1]["reason"]


@pytest.mark.parametrize(
    "kind", ["cut footer", "no images", "no captions", "numbers", "empty file"]
)
def test_parquet_files(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    good = pa.table({"image": [encoded(noise(41)), encoded(noise(42))], "caption": ["x", "x"]})
    pq.write_table(good, folder / "0.parquet")
    tables = {"no images": good.drop(["image"]), "no captions": good.drop(["caption"])}
    tables["numbers"] = pa.table({"image": [1, 2], "caption": ["x", "x"]})
    pq.write_table(tables.get(kind, good), folder / "1.parquet")
    if kind in ("cut footer", "empty file"):
        data = (folder / "1.parquet").read_bytes()
        (folder / "1.parquet").write_bytes(data[:-10] if kind == "cut footer" else b"")
    assert_skipped(folder, tmp_path)


def test_an_arrow_file_whose_offsets_point_anywhere(tmp_path):
    """Found by fuzz_readers.py: unchecked, such a batch makes the process read foreign memory."""
    for name, images in (("a.arrow", [PNG]), ("b.arrow", [GOOD, GOOD])):
        batch = pa.RecordBatch.from_pydict(
            {"image": images, "caption": ["nine char"] * len(images)}
        )
        with (
            pa.OSFile(str(tmp_path / name), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as f,
        ):
            f.write_batch(batch)
    good, bad = (np.array(offsets, np.int32).tobytes() for offsets in ([0, 9, 18], [0, 9, 2**30]))
    content = (tmp_path / "b.arrow").read_bytes()
    assert content.count(good) == 1
    (tmp_path / "b.arrow").write_bytes(content.replace(good, bad))
    manifest = pack(str(tmp_path), PackConfig(out=str(tmp_path / "out")))
    assert manifest["rows"] == 1 and "b.arrow" in manifest["skipped_items"][0]["source"]


def test_a_table_whose_lines_are_longer_than_its_head(tmp_path):
    (tmp_path / "metadata.csv").write_text("name,caption\na.jpg,a ball,and more\n")
    with pytest.raises(ValueError, match=r"line 2: 3 fields where the first line names 2"):
        pack(str(tmp_path), PackConfig(out=str(tmp_path / "out")))


def test_names_from_the_data_stay_on_one_line_in_messages(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,"two\nlines"\na.jpg,x\n')
    with pytest.raises(
        ValueError, match=r"name one of: file_name, two lines \(--caption-column\)$"
    ):
        pack(str(tmp_path), PackConfig(out=str(tmp_path / "out")))
