import gzip
import io
import json
import tarfile

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack
from vilta.data.sources import FEATURES, find_reader, load_pairs
from vilta.data.sources.base import clean_captions, manifest_of
from vilta.data.sources.options import public_name
from vilta.data.sources.patterns import stored_count
from vilta.data.text import TextDataset, caption_lines


def jpeg(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def sentence(text, imgid, sentid):
    tokens = text.lower().replace(" .", "").split()
    return {"tokens": tokens, "raw": text, "imgid": imgid, "sentid": sentid}


def flickr_entry(i, split, texts=("A dog runs .", "A brown dog .")):
    return {
        "sentids": [2 * i, 2 * i + 1],
        "imgid": i,
        "sentences": [sentence(t, i, 2 * i + j) for j, t in enumerate(texts)],
        "split": split,
        "filename": f"{i}.jpg",
    }


def karpathy(splits=("train", "train", "val"), name="flickr8k"):
    return {"images": [flickr_entry(i, s) for i, s in enumerate(splits)], "dataset": name}


@pytest.fixture
def flickr(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(jpeg(i))
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps(karpathy()))
    return tmp_path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def test_karpathy_folder_and_file(flickr):
    table = load_pairs(str(flickr), "train")
    assert table["image_id"][:] == ["flickr8k/0.jpg", "flickr8k/1.jpg"]
    assert table[1]["captions"] == ["A dog runs .", "A brown dog ."]
    assert table[1]["image"].size == (20, 16)
    file = str(flickr / "dataset_flickr8k.json")
    assert load_pairs(f"{file}?split=val")["image_id"][:] == ["flickr8k/2.jpg"]
    assert len(load_pairs(f"{file}?split=train+val")) == 3
    with pytest.raises(
        ValueError, match=r"named; there are: train, val \(write .*\?split=NAME, or NAME\+NAME\)"
    ):
        load_pairs(file)


def test_karpathy_coco_folders_and_joined_splits(tmp_path):
    entries = []
    for i, (split, folder) in enumerate([("train", "train2014"), ("restval", "val2014")]):
        (tmp_path / folder).mkdir()
        name = f"COCO_{folder}_00000000000{i}.jpg"
        (tmp_path / folder / name).write_bytes(jpeg(i))
        entries.append(flickr_entry(i, split) | {"filepath": folder, "filename": name, "cocoid": i})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    assert len(load_pairs(str(tmp_path), "train")) == 1
    assert len(load_pairs(str(tmp_path), "train+restval")) == 2


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_karpathy_tar_with_the_json_last_and_links(tmp_path, mode):
    members = {f"f/images/{i}.jpg": jpeg(i) for i in range(3)}
    members["../outside.jpg"] = jpeg()
    members["f/dataset_flickr8k.json"] = json.dumps(karpathy()).encode()
    path = make_tar(tmp_path / "f.tar", members, mode)
    table = load_pairs(path, "train")
    assert table["image_id"][:] == ["flickr8k/0.jpg", "flickr8k/1.jpg"]
    assert table["source"][0] == "f.tar:f/images/0.jpg"
    assert not (tmp_path.parent / "outside.jpg").exists() and not list(tmp_path.rglob("*.jpg"))


def test_cut_tar_is_told_and_what_was_read_stays(tmp_path):
    members = {"dataset_x.json": json.dumps(karpathy()).encode()}
    members |= {f"{i}.jpg": jpeg(i) + bytes(20_000) for i in range(3)}
    path = make_tar(tmp_path / "f.tar", members)
    whole = (tmp_path / "f.tar").read_bytes()
    (tmp_path / "f.tar").write_bytes(whole[: 2048 + 1024 * 30])
    reader = find_reader(f"{path}?split=train+val")
    assert len(list(reader.rows())) == 1
    reasons = " ".join(s.reason for s in reader.skipped)
    assert "cut short" in reasons and "no such image" in reasons


def test_missing_images_and_captions_are_skipped_and_counted(flickr):
    (flickr / "images" / "1.jpg").unlink()
    content = karpathy()
    content["images"][0]["sentences"] = [{"raw": "  ", "tokens": []}]
    (flickr / "dataset_flickr8k.json").write_text(json.dumps(content))
    reader = find_reader(f"{flickr}?split=train+val")
    assert [row["image_id"] for row in reader.rows()] == ["flickr8k/2.jpg"]
    assert {s.reason.split(" below")[0] for s in reader.skipped} == {
        "no such image",
        "no caption",
    }
    reader = find_reader(f"{flickr}?split=train+val")
    reader.strict = True
    with pytest.raises(ValueError, match="no such image"):
        list(reader.rows())


def test_what_a_table_lacks_is_told_and_strict_stops_there(flickr, caplog):
    (flickr / "images" / "1.jpg").unlink()
    assert len(load_pairs(str(flickr), "train+val")) == 2
    [said] = [record.getMessage() for record in caplog.records]
    assert "1 item skipped, the first: 1.jpg (no such image" in said and "\n" not in said
    with pytest.raises(ValueError, match=r"1\.jpg: no such image"):
        load_pairs(str(flickr), "train+val", strict=True)


def test_a_name_in_two_folders_is_skipped_and_the_folders_named(flickr, tmp_path):
    (flickr / "old").mkdir()
    (flickr / "old" / "1.jpg").write_bytes(jpeg(9))
    reader = find_reader(f"{flickr}?split=train")
    assert [row["image_id"] for row in reader.rows()] == ["flickr8k/0.jpg"]
    assert "images/1.jpg and old/1.jpg" in reader.skipped[0].reason

    (tmp_path / "vg" / "a").mkdir(parents=True)
    (tmp_path / "vg" / "b").mkdir()
    for place in ("a/1.jpg", "b/1.jpg", "a/2.jpg"):
        (tmp_path / "vg" / place).write_bytes(jpeg())
    regions = [{"id": i, "regions": [{"region_id": i, "phrase": "a dog"}]} for i in (1, 2)]
    (tmp_path / "vg" / "region_descriptions.json").write_text(json.dumps(regions))
    reader = find_reader(str(tmp_path / "vg"))
    assert [row["image_id"] for row in reader.rows()] == ["visual_genome/2.jpg"]
    assert "a/1.jpg and b/1.jpg" in reader.skipped[0].reason


@pytest.mark.parametrize("filename", ["../secret.jpg", "/etc/passwd", "", 5, None])
def test_file_names_that_are_paths_are_not_followed(flickr, filename):
    content = karpathy()
    content["images"][0]["filename"] = filename
    (flickr / "dataset_flickr8k.json").write_text(json.dumps(content))
    assert len(load_pairs(str(flickr), "train+val")) == 2


def write_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(jpeg(i))


def test_metadata_csv_with_several_rows_an_image(tmp_path):
    write_images(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "metadata.csv").write_text(
        'file_name,text\na.jpg,"one, two"\nb.jpg,three\na.jpg,four\n'
    )
    table = load_pairs(str(tmp_path))
    assert table["captions"][:] == [["one, two", "four"], ["three"]]


def test_metadata_jsonl_with_lists_bad_lines_and_bad_paths(tmp_path):
    write_images(tmp_path / "sub", ["a.jpg"])
    lines = [
        '{"file_name": "sub/a.jpg", "captions": ["one", "", "two"]}',
        '{"file_name": "sub/a',
        "[1]",
        '{"file_name": "../../a.jpg", "captions": ["up"]}',
        '{"file_name": "gone.jpg", "captions": ["gone"]}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    reader = find_reader(str(tmp_path))
    assert [row["captions"] for row in reader.rows()] == [["one", "two"]]
    assert len(reader.skipped) == 4


def test_caption_column(tmp_path):
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "metadata.csv").write_text("file_name,alt\na.jpg,hello\n")
    assert load_pairs(str(tmp_path), caption_column="alt")["captions"][0] == ["hello"]
    with pytest.raises(ValueError, match=r"no caption column .*; name one of: file_name, alt"):
        load_pairs(str(tmp_path))
    with pytest.raises(ValueError, match="no caption column other"):
        load_pairs(str(tmp_path), caption_column="other")


def test_text_beside_each_image(tmp_path):
    write_images(tmp_path / "d", ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "d" / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "d" / "b.txt").write_text("three")
    table = load_pairs(str(tmp_path))
    assert table["captions"][:] == [["one", "two"], ["three"]]
    assert table["image_id"][:] == ["d/a.jpg", "d/b.jpg"]


def test_a_file_name_that_is_no_text_is_written_out(tmp_path):
    write_images(tmp_path / "in", ["a\u202fb.jpg", "caf\udce9.jpg", "empty\udce9.jpg"])
    (tmp_path / "in" / "a\u202fb.txt").write_text("two dogs")
    (tmp_path / "in" / "caf\udce9.txt").write_text("a red ball")
    table = load_pairs(str(tmp_path / "in"))
    assert table["image_id"][:] == ["a\u202fb.jpg", "caf\\xe9.jpg"]
    assert table["source"][1].endswith("/caf\\xe9.jpg")
    config = PackConfig(out=str(tmp_path / "out"), merge_duplicates=False)
    manifest = pack(str(tmp_path / "in"), config)
    assert manifest["rows"] == 2
    assert manifest["skipped_items"][0]["source"].endswith("/empty\\xe9.jpg")
    (tmp_path / "in" / "metadata.csv").write_text("file_name,caption\na\u202fb.jpg,two dogs\n")
    reader = find_reader(str(tmp_path / "in"))
    assert len(reader.table()) == 1
    assert [s.source.rpartition("/")[2] for s in reader.skipped] == [
        "caf\\xe9.jpg",
        "empty\\xe9.jpg",
    ]


def test_split_folders(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / split, ["a.jpg"])
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\na.jpg,{split}\n")
    assert load_pairs(str(tmp_path), "val")["captions"][0] == ["val"]
    for split in ("", "test"):
        with pytest.raises(ValueError, match="there are: train, val"):
            load_pairs(str(tmp_path), split)


def test_folder_saved_by_datasets(tmp_path):
    columns = {"image": [{"bytes": jpeg(), "path": None}] * 2, "caption": ["x", ""]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": table, "val": table}).save_to_disk(str(tmp_path / "d"))
    pairs = load_pairs(str(tmp_path / "d"), "train")
    assert pairs["captions"][:] == [["x"]]
    assert pairs[0]["image"].size == (20, 16)
    with pytest.raises(ValueError, match="there are: train, val"):
        load_pairs(str(tmp_path / "d"), "test")


@pytest.mark.parametrize("captions", [None, [], ["a dog", None], [None], ["a dog", ""], [" \n"]])
def test_a_pair_table_without_some_captions(tmp_path, captions):
    rows = [
        {"image": {"bytes": jpeg(i), "path": None}, "captions": texts, "image_id": str(i)}
        for i, texts in enumerate([["a cat"], captions])
    ]
    datasets.Dataset.from_list([r | {"source": "own"} for r in rows], FEATURES).save_to_disk(
        str(tmp_path)
    )
    reader = find_reader(str(tmp_path))
    kept = [["a dog"]] if captions and "a dog" in captions else []
    table = reader.table()
    assert table["captions"][:] == [["a cat"], *kept]
    assert table.cache_files, "its images stay on the disk"
    assert table.features == FEATURES and table[0]["image_id"] == "0"
    assert [s.reason for s in reader.skipped] == ["no caption"] * (1 - len(kept))


def test_built_in_scenes():
    table = load_pairs("scenes:3?seed=5&size=32")
    assert len(table) == 3 and table[0]["image"].size == (32, 32)
    assert table["image_id"][:] != load_pairs("scenes:3?seed=6&size=32")["image_id"][:]


@pytest.mark.parametrize("name", ["scenes:", "scenes:x", "scenes:5?colour=1", "scenes:5?seed=x"])
def test_bad_scenes_show_the_form(name):
    with pytest.raises(ValueError, match=r"is not scenes:COUNT\?seed=S"):
        load_pairs(name)


def test_nothing_there_or_nothing_known(tmp_path):
    with pytest.raises(ValueError, match="no data were named"):
        load_pairs("")
    with pytest.raises(ValueError, match="no such file or folder"):
        load_pairs(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="is an empty folder"):
        load_pairs(str(tmp_path))
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(ValueError, match="contains no supported source; supported are"):
        load_pairs(str(tmp_path))
    with pytest.raises(ValueError, match="supported source; supported are"):
        load_pairs(str(tmp_path / "notes.md"))


@pytest.mark.parametrize("content", ['{"images": [', "[]", '{"images": [], "annotations": []}'])
def test_wrong_json_is_one_line(tmp_path, content):
    (tmp_path / "dataset_x.json").write_text(content)
    with pytest.raises(ValueError, match=r"^[^\n]*(not readable JSON|is not a Karpathy|is empty)"):
        load_pairs(str(tmp_path))


def test_source_without_a_usable_pair_says_why(tmp_path):
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "metadata.csv").write_text("file_name,text\na.jpg,\n")
    with pytest.raises(ValueError, match=r"no usable pair; 1 was skipped.*no caption"):
        load_pairs(str(tmp_path))


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_captions_are_clean_whatever_comes(value):
    for caption in clean_captions(value):
        assert caption == " ".join(caption.split()) != ""
        assert "\0" not in caption and caption.encode()


def test_caption_lines(tmp_path, flickr):
    (tmp_path / "c.txt").write_text("one\n\n two \n")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"one\n\n two \n"))
    assert caption_lines(str(tmp_path / "c.txt")) == ["one", "two"]
    assert caption_lines(str(tmp_path / "c.txt.gz")) == ["one", "two"]
    assert len(caption_lines(f"{flickr}?split=train+val")) == 6
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"one\n" * 1000)[:30])
    with pytest.raises(ValueError, match="cannot be read"):
        caption_lines(str(tmp_path / "cut.txt.gz"))
    with pytest.raises(ValueError, match="no such text file"):
        caption_lines(str(tmp_path / "no.txt"))


def test_text_samples_have_no_pixels():
    sample = TextDataset(["a cat", "a dog"], "mine")[3, 1]
    assert sample.caption == "a dog" and sample.pixels.shape == (3, 0, 0)
    with pytest.raises(ValueError, match="mine: no captions"):
        TextDataset([], "mine")


def test_karpathy_sentences_of_other_types_are_no_captions(flickr):
    content = karpathy()
    content["images"][0]["sentences"] = [{"tokens": 7}, {"raw": "", "tokens": ["a", 1]}]
    (flickr / "dataset_flickr8k.json").write_text(json.dumps(content))
    found = [item.captions for item in find_reader(str(flickr / "?split=train")).items()]
    assert found[0] == ["", "a 1"]


def test_a_packed_tar_that_ends_in_its_head(tmp_path):
    (tmp_path / "0.tar.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(ValueError, match=r"0\.tar\.gz"):
        list(find_reader(str(tmp_path / "0.tar.gz")).found())


def test_json_that_is_nested_without_end_beside_images_and_in_a_tar(tmp_path):
    deep = b"[" * 100_000
    place = make_tar(tmp_path / "0.tar", {"dataset_a.json": deep})
    with pytest.raises(ValueError, match=r"cannot be read \(dataset_a\.json\)"):
        find_reader(place).table()
    (tmp_path / "sizes.json").write_bytes(deep)
    assert stored_count(place) is None
    (tmp_path / "manifest.json").write_bytes(deep)
    assert manifest_of(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("/home/me/coco", "coco"),
        ("/home/me/coco/", "coco"),
        ("//home/me/coco", "coco"),
        ("/home/you+me/coco", "coco"),
        ("data/coco", "data/coco"),
        ("stream:/home/me/{00..31}.tar", "stream:{00..31}.tar"),
        ("stream:file:///home/me/*.tar", "stream:*.tar"),
        ("stream:s3://bucket/me/*.tar", "stream:s3://bucket/me/*.tar"),
        ("mine:Reader:/home/me/photos", "mine:Reader:photos"),
        ("/home/me/a+/home/me/b", "a+b"),
        ("data/a+/home/me/b+scenes:9?seed=1", "data/a+b+scenes:9?seed=1"),
        ("/home/R&D/a.csv?images=/home/me/b&split=x/y", "a.csv?images=b&split=x/y"),
        ("a.csv?split=train+val+/home/me/b.csv?split=val", "a.csv?split=train+val+b.csv?split=val"),
        ("hub:owner/name", "hub:owner/name"),
    ],
)
def test_a_name_to_be_published_has_no_folders_of_absolute_paths(name, public):
    assert public_name(name) == public
