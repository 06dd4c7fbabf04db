"""Small copies of what people have on disk, in the layouts in which it is published."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilta.data.sources import SourceOptions, find_reader, load_pairs
from vilta.data.sources.files import json_array


def jpeg(shade=0, size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def rows_of(path, **settings):
    reader = find_reader(str(path), SourceOptions(**settings))
    return list(reader.rows()), reader


def captions_by_id(path, **settings):
    return {row["image_id"]: row["captions"] for row in rows_of(path, **settings)[0]}


@pytest.fixture
def coco(tmp_path):
    for split, ids in {"train2014": [9, 25], "val2014": [42]}.items():
        (tmp_path / split).mkdir()
        names = {i: f"COCO_{split}_{i:012}.jpg" for i in ids}
        for i, name in names.items():
            (tmp_path / split / name).write_bytes(jpeg(i))
        content = {
            "info": {"description": "COCO 2014 Dataset", "version": "1.0", "year": 2014},
            "images": [
                {
                    "license": 5,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{split}/{name}",
                    "height": 30,
                    "width": 40,
                    "date_captured": "2013-11-14 16:28:13",
                    "flickr_url": "http://farm4.staticflickr.com/1.jpg",
                    "id": i,
                }
                for i, name in names.items()
            ],
            "licenses": [{"url": "http://creativecommons.org", "id": 1, "name": "BY-NC"}],
            "annotations": [
                {"image_id": i, "id": 10 * i + k, "caption": f"caption {k} of {i}"}
                for k in range(2)
                for i in ids
            ],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_coco(coco):
    expected = {
        f"coco/COCO_train2014_{i:012}.jpg": [f"caption 0 of {i}", f"caption 1 of {i}"]
        for i in (9, 25)
    }
    assert captions_by_id(coco, split="train2014") == expected
    assert captions_by_id(coco / "annotations" / "captions_train2014.json") == expected
    assert load_pairs(str(coco), "val2014")[0]["image"].size == (40, 30)
    with pytest.raises(ValueError, match="a split must be named; there are: train2014, val2014"):
        find_reader(str(coco))


def test_coco_with_a_missing_image_and_odd_entries(coco):
    path = coco / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["images"] += [{"id": 43, "file_name": "gone.jpg"}, {"id": 44, "file_name": "../x.jpg"}]
    content["images"] += [{"file_name": "no-id.jpg"}, "text"]
    content["annotations"] += [{"image_id": 43, "caption": "gone"}, {"image_id": 44}, 7]
    content["annotations"] += [{"image_id": 42, "caption": None}, {"image_id": 99, "caption": "x"}]
    path.write_text(json.dumps(content))
    rows, reader = rows_of(path)
    assert [len(row["captions"]) for row in rows] == [2]
    told = [(s.source.rpartition(": ")[2], s.reason.split(" below")[0]) for s in reader.skipped]
    assert told == [
        ("image 3", "it lacks an id or a file name"),
        ("image 4", "it lacks an id or a file name"),
        ("annotation 4", "there is no image with the id that it lacks"),
        ("annotation 6", "there is no image with the id 99"),
        ("gone.jpg", "no such image"),
        ("../x.jpg", "no such image"),
    ]


def test_flickr30k_token_file(tmp_path):
    (tmp_path / "flickr30k-images").mkdir()
    for i in (1000092795, 10002456):
        (tmp_path / "flickr30k-images" / f"{i}.jpg").write_bytes(jpeg())
    (tmp_path / "results_20130124.token").write_text(
        "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men\tin green .\n"
        "10002456.jpg#0\tSeveral men .\nno tab here\n../up.jpg#0\tup\n"
    )
    rows, reader = rows_of(tmp_path)
    assert {row["image_id"]: row["captions"] for row in rows} == {
        "flickr/1000092795.jpg": ["Two young guys .", "Two men in green ."],
        "flickr/10002456.jpg": ["Several men ."],
    }
    assert len(reader.skipped) == 2 and "results_20130124.token:4" in reader.skipped[0].source
    assert len(rows_of(tmp_path / "results_20130124.token")[0]) == 2
    (tmp_path / "Flickr8k.token.txt").write_text("")
    with pytest.raises(ValueError, match="several token files"):
        find_reader(str(tmp_path))


def region(number, image, phrase, x=0, y=0, width=20, height=10):
    box = {"x": x, "y": y, "width": width, "height": height}
    return {"region_id": number, "image_id": image, "phrase": phrase, **box}


@pytest.fixture
def visual_genome(tmp_path):
    for folder, image in {"VG_100K": 2, "VG_100K_2": 1}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{image}.jpg").write_bytes(jpeg(image))
    regions = [
        {
            "id": 1,
            "regions": [
                region(1382, 1, "the clock is green"),
                region(1383, 1, "the clock is green", x=5),
                region(1384, 1, "shade is along the street ", x=-4, y=25),
            ],
        },
        {"id": 2, "regions": [region(3, 2, "a road", x=10, y=5), region(4, 2, "", width=30)]},
        {"id": 3, "regions": []},
    ]
    sizes = [
        {
            "image_id": i,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K_2/{i}.jpg",
            "width": 40,
            "height": 30,
            "coco_id": None,
            "flickr_id": None,
        }
        for i in (1, 2, 3)
    ]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    (tmp_path / "image_data.json").write_text(json.dumps(sizes))
    return tmp_path


def test_visual_genome_regions_as_captions_of_the_whole_image(visual_genome):
    rows, reader = rows_of(visual_genome)
    assert {row["image_id"]: row["captions"] for row in rows} == {
        "visual_genome/1.jpg": ["the clock is green", "shade is along the street"],
        "visual_genome/2.jpg": ["a road"],
    }
    assert reader.total == 3 and len(reader.skipped) == 1
    assert "image 3" in reader.skipped[0].source


def test_visual_genome_regions_as_images(visual_genome):
    rows, reader = rows_of(visual_genome, region_crops=True)
    sizes = {row["image_id"]: Image.open(io.BytesIO(row["image"]["bytes"])).size for row in rows}
    assert sizes == {
        "visual_genome/1-1382": (20, 10),
        "visual_genome/1-1383": (20, 10),
        "visual_genome/2-3": (20, 10),
    }
    # Of the third region five rows are inside; one phrase is empty; one image is not there.
    reasons = [s.reason for s in reader.skipped]
    assert any("smaller than 8 pixels" in r for r in reasons) and "no caption" in reasons


def test_regions_of_other_types_are_left_out(visual_genome):
    path = visual_genome / "region_descriptions.json"
    endless = {
        "region_id": 7,
        "phrase": "a dog",
        "x": float("inf"),
        "y": 0,
        "width": 9,
        "height": 9,
    }
    path.write_text(json.dumps([{"id": 1, "regions": 0.5}, {"id": 2, "regions": [endless, 7]}]))
    assert rows_of(visual_genome, region_crops=True)[0] == []
    assert [row["captions"] for row in rows_of(visual_genome)[0]] == [["a dog"]]


def test_a_cut_region_file_is_one_line_after_what_could_be_read(visual_genome):
    path = visual_genome / "region_descriptions.json"
    path.write_text(path.read_text()[:-60])
    reader = find_reader(str(visual_genome))
    rows = reader.rows()
    assert next(rows)["image_id"] == "visual_genome/1.jpg"
    with pytest.raises(ValueError, match=r"^[^\n]*broken JSON, or ends in the middle$"):
        list(rows)


@given(st.lists(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5)))
def test_json_array_equals_the_library(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "a.json"
    for indent in (None, 2):
        path.write_text(json.dumps(values, indent=indent))
        assert list(json_array(path)) == values


def test_json_array_across_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("vilta.data.sources.files.CHUNK", 7)
    values = [{"id": i, "text": "é" * i} for i in range(20)]
    (tmp_path / "a.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    assert list(json_array(tmp_path / "a.json")) == values
    (tmp_path / "b.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is not a JSON array"):
        list(json_array(tmp_path / "b.json"))
    for more in (' [{"id": 1}]', "\n" * 20 + "]", "x"):
        (tmp_path / "c.json").write_text("[1, 2]" + more)
        with pytest.raises(ValueError, match=r"^[^\n]*goes on after its list; make it one list"):
            list(json_array(tmp_path / "c.json"))


def download_table(folder, shard, jpg=False):
    """The table that img2dataset leaves for a shard; its third download failed."""
    rows = [
        {
            "url": f"http://example.org/{i}.jpg",
            "caption": f"caption {i}",
            "key": f"{shard:05}{i:04}",
            "status": "success" if i != 2 else "failed_to_download",
            "error_message": None if i != 2 else "HTTP Error 404: Not Found",
            "width": 40,
            "height": 30,
            "original_width": 80,
            "original_height": 60,
            "exif": "{}",
            "sha256": "0" * 64,
        }
        | ({"jpg": jpeg(i) if i != 2 else None} if jpg else {})
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05}.parquet")
    (folder / f"{shard:05}_stats.json").write_text('{"count": 4, "successes": 3}')
    return [row for row in rows if row["status"] == "success"]


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["files", "webdataset", "parquet"])
def test_img2dataset_in_each_of_its_forms(tmp_path, form):
    for shard in (0, 1):
        good = download_table(tmp_path, shard, jpg=form == "parquet")
        if form == "files":
            folder = tmp_path / f"{shard:05}"
            folder.mkdir()
            for i, row in enumerate(good):
                (folder / f"{row['key']}.jpg").write_bytes(jpeg(i))
                (folder / f"{row['key']}.txt").write_text(row["caption"])
                (folder / f"{row['key']}.json").write_text(json.dumps(row))
        if form == "webdataset":
            with tarfile.open(tmp_path / f"{shard:05}.tar", "w") as archive:
                for i, row in enumerate(good):
                    add(archive, f"{row['key']}.jpg", jpeg(i))
                    add(archive, f"{row['key']}.txt", row["caption"].encode())
                    add(archive, f"{row['key']}.json", json.dumps(row).encode())
    rows, reader = rows_of(tmp_path)
    assert [row["captions"][0] for row in rows] == [f"caption {i}" for i in (0, 1, 3)] * 2
    assert [s.reason for s in reader.skipped] == [
        "failed_to_download: HTTP Error 404: Not Found"
    ] * 2
    assert len({row["image_id"] for row in rows}) == 6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Train_GCC-training.tsv", "a very typical bus station\thttp://example.org/1.jpg\n"),
        ("sbu-captions-all.json", '{"image_urls": ["u"], "user_ids": ["1"], "captions": ["c"]}'),
    ],
)
def test_lists_of_addresses_say_how_to_get_the_images(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]*lists addresses of images[^\n]*img2dataset"):
        find_reader(str(tmp_path / name))


def test_tars_of_any_origin(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add(archive, "README", b"hello")
        add(archive, "x/0001.jpg", jpeg())
        add(archive, "x/0001.json", b'{"text": ["one", "two"], "alt": "three"}')
        add(archive, "x/0002.left.PNG", jpeg(2))
        add(archive, "x/0007.note", b"no suffix of an image")
        add(archive, "x/0003.txt", b"no image")
        add(archive, "x/0004.webp", jpeg())
        add(archive, "x/0001.txt", b"too late, it has captions")
        add(archive, "x/0002.caption", b"far apart")
        add(archive, "../../0005.jpg", jpeg())
        add(archive, "../../0005.txt", b"a name is only a name")
        link = tarfile.TarInfo("x/0006.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        add(archive, "x/0006.txt", b"a link")
    rows, reader = rows_of(tmp_path / "a.tar.gz")
    assert [row["captions"] for row in rows] == [
        ["one", "two"],
        ["far apart"],
        ["a name is only a name"],
    ]
    reasons = [s.reason.split(" among")[0] for s in reader.skipped]
    assert reasons == [
        "its sample had image and text before",
        *["no image"] * 2,
        "no caption",
        "no image",
    ]
    assert not (tmp_path.parent / "0005.jpg").exists()
    assert rows_of(tmp_path / "a.tar.gz", caption_column="alt")[0][0]["captions"] == ["three"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("first", ["images", "texts"])
def test_a_tar_that_holds_all_images_before_or_after_all_texts(tmp_path, first, mode):
    images = [(f"x/{i}.left.jpg", jpeg(i)) for i in range(4)]
    texts = [(f"x/{i}.cap", f"text {i}".encode()) for i in range(4)]
    path = tmp_path / ("a.tar" if mode == "w" else "a.tar.gz")
    with tarfile.open(path, mode) as archive:
        for name, data in [*images, *texts] if first == "images" else [*texts, *images]:
            add(archive, name, data)
    for place in (path, tmp_path):
        rows, reader = rows_of(place)
        assert [row["captions"] for row in rows] == [[f"text {i}"] for i in range(4)]
        assert not reader.skipped


def test_a_tar_that_ends_early_keeps_what_came_before(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            add(archive, f"{i}.jpg", jpeg(i))
            add(archive, f"{i}.txt", b"text")
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: data.index(b"1.jpg") + 600])  # in the picture
    (tmp_path / "b.tar").write_bytes(data)
    rows, reader = rows_of(tmp_path / "*.tar")
    assert [row["image_id"] for row in rows] == ["a/0", "b/0", "b/1", "b/2"]
    assert "ends early" in reader.skipped[0].reason


def test_parquet_as_the_hub_writes_it(tmp_path):
    columns = {"image": [{"bytes": jpeg(), "path": "a.jpg"}] * 2, "text": ["x", "y"]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert [list(row["captions"]) for row in rows_of(tmp_path, split="test")[0]] == [["x"], ["y"]]
    with pytest.raises(ValueError, match="a split must be named; there are: test, train"):
        find_reader(str(tmp_path))
    with pytest.raises(ValueError, match="a split must be named; there are: test, train"):
        find_reader(str(tmp_path / "data" / "*.parquet"))
    rows, reader = rows_of(tmp_path / "data" / "*.parquet?split=train+test")
    assert len(rows) == 4 and reader.total == 4


def test_parquet_that_is_not_what_it_should_be(tmp_path):
    good = pa.table({"image": [jpeg()], "caption": ["good"]})
    pq.write_table(good, tmp_path / "0.parquet")
    pq.write_table(good.drop(["image"]), tmp_path / "1.parquet")
    pq.write_table(good.drop(["caption"]), tmp_path / "2.parquet")
    pq.write_table(pa.table({"image": [5, 6], "caption": ["a", "b"]}), tmp_path / "3.parquet")
    (tmp_path / "4.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-9])
    (tmp_path / "5.parquet").write_bytes(b"")
    rows, reader = rows_of(tmp_path)
    assert [row["captions"] for row in rows] == [["good"]]
    assert len(reader.skipped) == 6
    reader = find_reader(str(tmp_path))
    reader.strict = True
    with pytest.raises(ValueError, match="no column of images"):
        list(reader.rows())


@pytest.mark.parametrize("column", ["caption", "split"])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_two_columns_of_one_name_are_refused_in_one_line(tmp_path, form, column):
    names = ["image", "caption", "split", column]
    table = pa.table([pa.array([jpeg()]), *[pa.array(["x"])] * 3], names)
    path = tmp_path / f"0.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=f"^[^\n]*two columns are called '{column}'"):
        load_pairs(str(path))
    assert find_reader(str(path)).count() == 0


def test_a_data_set_by_the_name_that_datasets_knows(tmp_path, monkeypatch):
    """A folder of Parquet files is one; the hub's own names take the same way."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    columns = {"image": [{"bytes": jpeg(), "path": "a.jpg"}], "text": ["x"]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    name = f"hub:{tmp_path / 'set'}"
    assert [row["captions"] for row in rows_of(name)[0]] == [["x"]]
    with pytest.raises(ValueError, match="there are: train"):
        find_reader(f"{name}?split=test")
    with pytest.raises(ValueError, match=r"^hub:[^\n]* cannot be loaded"):
        find_reader(f"hub:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_files_of_meter(tmp_path, stream):
    """As its `write_*.py` make them: a pandas table through a RecordBatchFileWriter."""
    coco = pd.DataFrame(
        [[jpeg(i), [f"one {i}", f"two {i}"], f"COCO_val2014_{i:012}.jpg", "val"] for i in range(3)],
        columns=["image", "caption", "image_id", "split"],
    )
    regions = pd.DataFrame(
        [[jpeg(), ["a road", "a car"], [4, 4], [5, 5], [0, 1], [0, 1], "2317450"]],
        columns=["image", "caption", "width", "height", "x", "y", "image_id"],
    )
    writer = pa.RecordBatchStreamWriter if stream else pa.RecordBatchFileWriter
    for name, frame in {"coco_caption_karpathy_val": coco, "vg": regions}.items():
        table = pa.Table.from_pandas(frame)
        with writer(str(tmp_path / f"{name}.arrow"), table.schema) as file:
            file.write_table(table)
    rows, _ = rows_of(tmp_path / "coco_caption_karpathy_val.arrow")
    assert [row["captions"] for row in rows] == [[f"one {i}", f"two {i}"] for i in range(3)]
    assert rows[0]["image_id"] == "COCO_val2014_000000000000.jpg"
    assert captions_by_id(tmp_path / "vg.arrow") == {"2317450": ["a road", "a car"]}


def test_files_of_several_kinds_are_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="several kinds"):
        find_reader(str(tmp_path / "a.*"))
    with pytest.raises(ValueError, match="no such file or folder"):
        find_reader(str(tmp_path / "*.zip"))


def test_cocos_copies_on_the_hub_hold_karpathys_sentences(tmp_path):
    """One of them has a row for each sentence, the other a list of them."""
    said = [
        {"tokens": ["a", "dog"], "raw": "A dog.", "sentid": 1},
        {"raw": "Two dogs"},
    ]
    rows = [{"image": {"bytes": jpeg(i), "path": None}, "sentences": s} for i, s in enumerate(said)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [row["captions"] for row in rows_of(tmp_path)[0]] == [["A dog."], ["Two dogs"]]
    joined = pa.Table.from_pylist([{"image": {"bytes": jpeg(), "path": None}, "sentences": said}])
    pq.write_table(joined, tmp_path / "a.parquet")
    assert [row["captions"] for row in rows_of(tmp_path)[0]] == [["A dog.", "Two dogs"]]


def test_metadata_parquet_counts_the_images_that_it_does_not_name(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(jpeg(i))
    named = {"file_name": ["images/0.jpg", "1.jpg", "gone.jpg"], "text": ["a", "b", "c"]}
    pq.write_table(pa.table(named), tmp_path / "metadata.parquet")
    rows, reader = rows_of(tmp_path)
    assert [row["captions"] for row in rows] == [["a"], ["b"]]
    told = {Path(s.source).name: s.reason for s in reader.skipped}
    assert told.keys() == {"metadata.parquet#2", "2.jpg", "3.jpg"}
    assert told["3.jpg"] == "no caption: the table does not name it"
    pq.write_table(pa.table(named | {"split": ["x", "y", "y"]}), tmp_path / "metadata.parquet")
    assert not [s for s in rows_of(tmp_path, split="x")[1].skipped if "does not name" in s.reason]


def test_addresses_in_parquet_say_how_to_get_the_images(tmp_path):
    pq.write_table(
        pa.table({"URL": ["http://x/1.jpg"], "TEXT": ["a"]}), tmp_path / "part-0.parquet"
    )
    with pytest.raises(
        ValueError, match=r"--input_format parquet --url_col URL --caption_col TEXT"
    ):
        find_reader(str(tmp_path)).table()


def test_what_macos_adds_to_archives_is_no_image(tmp_path):
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "1.jpg").write_bytes(jpeg())
    (tmp_path / "1.txt").write_text("a dog")
    for name in ("._1.jpg", "._1.txt", "__MACOSX/._1.jpg"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7\xb0")
    rows, reader = rows_of(tmp_path)
    assert [row["captions"] for row in rows] == [["a dog"]] and not reader.skipped
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.jpg,a dog\n")
    rows, reader = rows_of(tmp_path)
    assert len(rows) == 1 and not reader.skipped


def test_flickr8ks_caption_of_an_image_that_does_not_exist(tmp_path):
    (tmp_path / "2258277193_586949ec62.jpg").write_bytes(jpeg())
    (tmp_path / "Flickr8k.token.txt").write_text(
        "2258277193_586949ec62.jpg#0\tA dog .\n2258277193_586949ec62.jpg.1#0\tpeople\n"
    )
    rows, reader = rows_of(tmp_path)
    assert [row["captions"] for row in rows] == [["A dog ."]]
    assert [s.source for s in reader.skipped] == ["2258277193_586949ec62.jpg.1"]
