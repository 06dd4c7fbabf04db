"""Which rows of a source show the same image, and under which names images are found."""

import io
import json
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vilta.config.tools import PackConfig
from vilta.data.images import PairImages, find_images, require_images
from vilta.data.pack.packing import pack
from vilta.data.sources import SourceOptions, find_reader, load_pairs


def jpeg(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def rows_of(path, **settings):
    reader = find_reader(str(path), SourceOptions(**settings))
    return list(reader.rows()), reader


def test_coco_names_with_folders_and_ids_of_another_type(tmp_path):
    """Tools write paths, backslashes, and ids as text; what is not found is counted and named."""
    for name in ("a/0.jpg", "b/0.jpg", "b/1.jpg", "2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(len(name)))
    names = {
        1: "a/0.jpg",
        "2": "b\\0.jpg",
        3: "/data/set/2.jpg",
        4: "gone.jpg",
        5: None,
        0: "1.jpg",
    }
    content = {
        "images": [{"id": i, "file_name": name} for i, name in names.items()],
        "annotations": [{"image_id": i, "caption": f"of {i}"} for i in ("1", 2, 3, 4, "0", 99)],
    }
    (tmp_path / "captions_x.json").write_text(json.dumps(content))
    rows, reader = rows_of(tmp_path)
    assert {row["image_id"]: row["captions"] for row in rows} == {
        "coco/a/0.jpg": ["of 1"],
        "coco/b/0.jpg": ["of 2"],
        "coco/2.jpg": ["of 3"],
        "coco/1.jpg": ["of 0"],
    }
    told = [f"{s.source.removeprefix(str(tmp_path))}: {s.reason}" for s in reader.skipped]
    assert [line.split(" below")[0] for line in told] == [
        "/captions_x.json: image 4: it lacks an id or a file name",
        "/captions_x.json: annotation 5: there is no image with the id 99",
        "gone.jpg: no such image",
    ]
    with pytest.raises(ValueError, match="image 4: it lacks an id or a file name"):
        load_pairs(str(tmp_path), strict=True)


def test_karpathy_names_with_folders(tmp_path):
    for name in ("a/0.jpg", "b/0.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(jpeg(len(name)))
    entries = [
        {"filename": name, "split": "train", "sentences": [{"raw": f"of {name}"}]}
        for name in ("a/0.jpg", "b\\0.jpg", "../b/0.jpg")
    ]
    (tmp_path / "dataset_x.json").write_text(json.dumps({"images": [*entries, {"filename": 3}]}))
    rows, reader = rows_of(tmp_path, split="train")
    assert [row["captions"] for row in rows] == [["of a/0.jpg"], ["of b\\0.jpg"]]
    reasons = [s.reason.split(" below")[0] for s in reader.skipped]
    assert reasons == ["it has no file name", "no such image"]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("dataset_x.json", "a/0.jpg", "b/0.jpg"):
            archive.add(tmp_path / name, f"x/{name}")
    rows, reader = rows_of(tmp_path / "a.tar", split="train")
    assert [row["captions"] for row in rows] == [["of a/0.jpg"], ["of b\\0.jpg"]]
    assert len(reader.skipped) == 2


def parquet(path, ids, shades, captions=None):
    columns = {
        "image": [jpeg(shade) for shade in shades],
        "caption": captions or [f"number {i} of {path.name}" for i in range(len(ids))],
        "image_id": ids,
    }
    pq.write_table(pa.table(columns), path)


def test_a_row_for_each_caption_makes_one_image(tmp_path):
    parquet(tmp_path / "a.parquet", [i // 5 for i in range(20)], [20 * (i // 5) for i in range(20)])
    table = load_pairs(str(tmp_path))
    assert table["image_id"][:] == ["0", "1", "2", "3"]
    assert [len(captions) for captions in table["captions"]] == [5, 5, 5, 5]
    manifest = pack(str(tmp_path), PackConfig(out=str(tmp_path / "packed")))
    assert (manifest["rows"], manifest["captions"], manifest["skipped"]) == (4, 20, 0)
    assert load_pairs(str(tmp_path / "packed"))["captions"][:] == table["captions"][:]


def test_ids_that_start_anew_in_each_shard_are_other_images(tmp_path):
    parquet(tmp_path / "a.parquet", [0, 1], [0, 20])
    parquet(tmp_path / "b.parquet", [0, 1], [40, 20])  # 1 is the same picture, split over two
    table = load_pairs(str(tmp_path))
    assert table["image_id"][:] == ["a/0", "a/1", "b/0"]
    assert table["captions"][1] == ["number 1 of a.parquet", "number 1 of b.parquet"]
    manifest = pack(str(tmp_path), PackConfig(out=str(tmp_path / "packed")))
    assert (manifest["rows"], manifest["captions"]) == (3, 4)
    images = find_images(str(tmp_path / "packed"))
    assert images.read("b/1") == images.read("a/1") == jpeg(20), "a merged name is known"
    assert images.read("b/0") == jpeg(40) and images.read("1") == jpeg(20)
    with pytest.raises(ValueError, match=r"'0' is a/0 and b/0 in .*name its folder too"):
        images.read("0")


def test_an_id_of_several_pictures_loses_none(tmp_path):
    parquet(tmp_path / "a.parquet", [7, 7, 7], [0, 40, 0])
    table = load_pairs(str(tmp_path))
    assert table["image_id"][:] == ["7", "7#2"]
    assert [len(captions) for captions in table["captions"]] == [2, 1]
    with pytest.raises(ValueError, match="'7' is 7 and 7#2"):
        PairImages(table, "table").read("7")


def test_a_number_may_be_the_id_of_a_saved_table(tmp_path):
    columns = {"image": [jpeg(0), jpeg(1)], "caption": ["a", "b"], "image_id": [0, 1]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    assert load_pairs(str(tmp_path / "saved"))["image_id"][:] == ["0", "1"]


def test_names_in_two_folders_of_a_packed_set_are_told_apart(tmp_path):
    for name, shade in {"a/0.jpg": 0, "b/0.jpg": 40, "b/1.jpg": 0}.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(shade))
        path.with_suffix(".txt").write_text(name)
    pack(str(tmp_path / "photos"), PackConfig(out=str(tmp_path / "packed")))
    images = find_images(str(tmp_path / "packed"))
    assert images.read("b/0.jpg") == jpeg(40)
    assert images.read("1.jpg") == images.read("b/1.jpg") == images.read("1") == jpeg(0)
    for key in ("0.jpg", "0"):
        with pytest.raises(ValueError, match=r"'0(\.jpg)?' is a/0.jpg and b/0.jpg in .*folder"):
            require_images(images, [key])
