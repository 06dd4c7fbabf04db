"""CSV, TSV, JSON lines and JSON lists that name images and captions, as people have them."""

import base64
import csv
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilta.config.tools import PackConfig
from vilta.data.pack.packing import pack
from vilta.data.sources import SourceOptions, find_reader, load_pairs
from vilta.data.sources.tables import json_rows, separated_rows
from vilta.data.text import caption_lines


def jpeg(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Three photos in a folder beside whatever names them."""
    (tmp_path / "Images").mkdir()
    for i, name in enumerate(["a.jpg", "b.jpg", "c.JPG"]):
        (tmp_path / "Images" / name).write_bytes(jpeg(40 * i))
    return tmp_path


def captions(path, **options):
    """Captions by image, and what was skipped."""
    reader = find_reader(str(path), SourceOptions(**options))
    found = {row["image_id"].rpartition("/")[2]: row["captions"] for row in reader.rows()}
    return found, [skipped.reason for skipped in reader.skipped]


TWO = {"a.jpg": ["a red, shiny car", "a car"], "b.jpg": ["two dogs"]}
NOT_NAMED = ["no caption: the table does not name it"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", 'image,caption\na.jpg,"a red, shiny car"\na.jpg,a car\nb.jpg,two dogs\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| a red, shiny car\na.jpg| 1| a car\n"
            "b.jpg| 0| two dogs\nc.JPG| 4   the published file has such a line\n",
        ),
        (
            "train.csv",
            "filepath\ttitle\nImages/a.jpg\ta red, shiny car\n/home/me/Images/a.jpg\ta car\n"
            "b.jpg\ttwo dogs\n",
        ),
        ("t.tsv", "title\tfilepath\na red, shiny car\ta.jpg\na car\ta.jpg\ntwo dogs\tb\n"),
        ("captions.csv", "filename;text\na.jpg; a red, shiny car \na.jpg;a car\nb.jpg;two dogs\n"),
        ("captions.csv", '\ufefffile_name,caption_0,caption_1\na.jpg,"a red, shiny car",a car\n'
         "b.jpg,two dogs,\n"),
        (
            "flickr_annotations.csv",
            'raw,filename\n"[""a red, shiny car"", ""a car""]",a.jpg\n"[\'two dogs\']",b.jpg\n',
        ),
        (
            "captions.jsonl",
            '{"image": "a.jpg", "caption": ["a red, shiny car", "a car"]}\n'
            '{"image": "Images\\\\b.jpg", "caption": "two dogs"}\n',
        ),
        (
            "albef.json",
            '[{"image": "flickr30k/Images/a.jpg", "caption": "a red, shiny car", "image_id": 1},'
            '{"image": "Images/a.jpg", "caption": "a car", "image_id": 1},'
            '{"image": "b.jpg", "caption": ["two dogs"]}]',
        ),
        (
            "textcaps.json",
            '{"info": 1, "data": [{"image_id": "a", "reference_strs": ["a red, shiny car",'
            ' "a car"]}, {"image_id": "b", "reference_strs": ["two dogs"]}]}',
        ),
        ("map.json", '{"a.jpg": ["a red, shiny car", "a car"], "b.jpg": "two dogs"}'),
    ],
)  # fmt: skip
def test_tables_as_they_are_published(photos, name, text):
    (photos / name).write_text(text, encoding="utf-8")
    found, skipped = captions(photos / name)
    assert found == TWO and skipped == (["no caption"] if name == "results.csv" else [])
    if not name.startswith(("map", "textcaps")):  # which are read when they are named
        found, skipped = captions(photos)
        assert found == TWO and skipped == (["no caption"] if name == "results.csv" else NOT_NAMED)


def test_llava_has_one_answer_or_a_dialogue(photos):
    ask, answer = {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "x"}
    items = [
        {"id": "1", "image": "a.jpg", "conversations": [ask, answer]},
        {"id": "2", "image": "b.jpg", "conversations": [ask, answer, ask, answer]},
    ]
    (photos / "llava.json").write_text(json.dumps(items))
    found, skipped = captions(photos / "llava.json")
    assert found == {"a.jpg": ["x"]}
    assert skipped[0] == "a dialogue of several turns is not a caption"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.jpg,x\nb.jpg,a red, shiny car\n", r"line 3: 3 fields where the first line names 2 "),
        ('a.jpg,"x\nb.jpg,y\nc.JPG,z\n', r"lines 2 to 4: not readable CSV .*is a quote left open"),
        ('a.jpg,"x\nb.jpg,y\nc.JPG,"z"\n', r"lines 2 to 4: .*quote left open"),
        ('a.jpg,"x\nb.jpg,y"\n', r"line 2: a quoted text runs on over line 3 \(b.jpg,y\)"),
        ('a.jpg,"x" y\n', r"line 2: not readable CSV"),
        ("a.jpg,x\nb.jpg,caf\xe9\n", r"line 3: not readable as UTF-8; .* --encoding latin-1"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_what_is_not_plainly_a_table_is_an_error_with_its_line(photos, text, problem, strict):
    (photos / "captions.csv").write_bytes(f"file_name,caption\n{text}".encode("latin-1"))
    with pytest.raises(ValueError, match=problem) as caught:
        load_pairs(str(photos), strict=strict)
    assert "\n" not in str(caught.value) and "captions.csv" in str(caught.value)


def test_encodings_are_named_or_marked(photos):
    text = "file_name,caption\na.jpg,un caf\xe9\n"
    (photos / "captions.csv").write_bytes(text.encode("latin-1"))
    assert captions(photos, encoding="latin-1")[0] == {"a.jpg": ["un caf\xe9"]}
    assert load_pairs(f"{photos}?encoding=latin-1")["captions"][:] == [["un caf\xe9"]]
    with pytest.raises(ValueError, match="there is no encoding 'klingon'"):
        captions(photos, encoding="klingon")
    (photos / "captions.csv").write_bytes(text.encode("utf-16"))
    assert captions(photos)[0] == {"a.jpg": ["un caf\xe9"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(photos, end):
    text = f'file_name;caption{end}a.jpg;"one, two, three"{end}b.jpg;two, three{end}'
    (photos / "captions.csv").write_bytes(text.encode())
    expected = {"a.jpg": ["one, two, three"], "b.jpg": ["two, three"]}
    assert captions(photos)[0] == captions(photos / "captions.csv")[0] == expected


def test_breaks_of_lines_that_are_none(photos):
    """Unicode knows more of them than files do."""
    (photos / "captions.csv").write_text('file_name,caption\na.jpg,"one\u2028two\nthree"\n')
    assert captions(photos)[0] == {"a.jpg": ["one two three"]}


def test_columns_are_named_by_flags_and_the_error_names_those_there_are(photos):
    (photos / "list.csv").write_text("photo,alt,en\na.jpg,hello,dear\n")
    with pytest.raises(
        ValueError,
        match=r"3 images but no captions.*list\.csv \(photo, alt, en\), name the columns",
    ):
        captions(photos)
    with pytest.raises(ValueError, match=r"no column of images .*one of: photo, alt, en .*--image"):
        captions(photos / "list.csv")
    flags = {"image_column": "photo", "caption_column": "alt,en"}
    assert captions(photos / "list.csv", **flags)[0] == {"a.jpg": ["hello", "dear"]}
    assert captions(photos, **flags)[0] == {"a.jpg": ["hello", "dear"]}
    with pytest.raises(ValueError, match="no caption column de; name one of: photo, alt, en"):
        captions(photos / "list.csv", image_column="photo", caption_column="de")
    (photos / "list.csv").write_text("file_name,caption,caption\na.jpg,x,y\n")
    with pytest.raises(ValueError, match="two columns are called 'caption'"):
        captions(photos)


def test_strict_is_about_what_is_named(photos, tmp_path):
    (photos / "captions.csv").write_text("image,caption\na.jpg,x\n")
    manifest = pack(str(photos), PackConfig(out=str(tmp_path / "one"), strict=True))
    assert (manifest["rows"], manifest["skipped"]) == (1, 0)
    assert pack(str(photos), PackConfig(out=str(tmp_path / "two")))["skipped"] == 2
    (photos / "captions.csv").write_text("image,caption\na.jpg,x\nb.jpg,\n")
    with pytest.raises(ValueError, match=r"b\.jpg: no caption"):
        pack(str(photos), PackConfig(out=str(tmp_path / "three"), strict=True))


def test_images_elsewhere_and_several_tables(photos):
    (photos / "lists").mkdir()
    for name in ("one.csv", "two.csv"):
        (photos / "lists" / name).write_text("image,caption\nx/a.jpg,a\nImages/b.jpg,b\n")
    with pytest.raises(ValueError, match=r"several tables .*name one of them: one\.csv, two\.csv"):
        captions(photos / "lists")
    found, skipped = captions(photos / "lists" / "one.csv", images=str(photos))
    assert found == {"b.jpg": ["b"]} and len(skipped) == 1
    assert captions(f"{photos / 'lists'}?split=two&images={photos}")[0] == found


@pytest.mark.parametrize("column", ["split", " Split"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "arrow", "saved", "metadata.parquet"])
def test_a_column_of_splits_is_never_mixed(photos, form, column):
    rows = [
        {"file_name": name, "caption": f"of {name}", column: split}
        for name, split in [("a.jpg", "train"), ("b.jpg", "val"), ("c.JPG", "train")]
    ]
    place = photos / f"rows.{form}"
    if form == "csv":
        pd.DataFrame(rows).to_csv(place, index=False)
    elif form == "jsonl":
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "arrow":
        with pa.ipc.new_file(place, (table := pa.Table.from_pylist(rows)).schema) as writer:
            writer.write_table(table)
    elif form == "saved":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(str(photos))
        place = photos
    else:
        place = photos / form if form.startswith("meta") else place
        pq.write_table(pa.Table.from_pylist(rows), place)
        place = photos if form.startswith("meta") else place
    with pytest.raises(ValueError, match="a split must be named; there are: train, val"):
        captions(place)
    with pytest.raises(ValueError, match="no split 'test'; there are: train, val"):
        captions(place, split="test")

    def texts(split):
        return sorted(c for found in captions(place, split=split)[0].values() for c in found)

    assert texts("val") == ["of b.jpg"]
    assert texts("train") == ["of a.jpg", "of c.JPG"]
    assert texts("train+val") == ["of a.jpg", "of b.jpg", "of c.JPG"]


def test_shards_whose_names_tell_splits_are_never_mixed(tmp_path):
    import tarfile

    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"set-{split}-000.tar.gz", "w:gz") as archive:
            for name, data in {"1.jpg": jpeg(), "1.caption": split.encode()}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with pytest.raises(ValueError, match="a split must be named; there are: train, val"):
        captions(tmp_path)
    assert captions(tmp_path, split="val")[0] == {"1": ["val"]}
    assert captions(f"{tmp_path}/*.tar.gz", split="train")[0] == {"1": ["train"]}


def test_folders_of_a_pattern_that_tell_splits_are_never_mixed(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        pq.write_table(
            pa.table({"image": [jpeg()], "caption": [split]}), tmp_path / split / "0.parquet"
        )
    with pytest.raises(ValueError, match="a split must be named; there are: train, val"):
        captions(f"{tmp_path}/*/0.parquet")
    assert captions(f"{tmp_path}/*/0.parquet", split="val")[0] == {"0#0": ["val"]}
    assert captions(f"{tmp_path}/val/*.parquet")[0] == {"0#0": ["val"]}


def test_images_in_cells(photos):
    """As bytes, as base64 of both kinds, as a path, in a list; and what is none of them."""
    text = base64.b64encode(jpeg(40)).decode()
    cells = {
        "path": ["Images/a.jpg", "gone.jpg", "/etc/passwd"],
        "base64": [text, f"data:image/jpeg;base64,{text}", "!"],
        "bytes": [jpeg(40), text.encode(), b""],
        "list": [[jpeg(40)], [jpeg(40), jpeg()], []],
    }
    kept = {"path": 1, "base64": 2, "bytes": 2, "list": 1}
    for kind, images in cells.items():
        table = pa.table({"image": images, "caption": ["x", "y", "z"]})
        pq.write_table(table, photos / "rows.parquet")
        manifest = pack(
            str(photos / "rows.parquet"),
            PackConfig(out=str(photos / kind), merge_duplicates=False),
        )
        assert manifest["rows"] == kept[kind], kind
        shown = load_pairs(str(photos / kind))[0]["image"].getpixel((0, 0))
        assert shown == Image.open(io.BytesIO(jpeg(0 if kind == "path" else 40))).getpixel((0, 0))


def test_captions_alone_are_read_from_tables(photos):
    """The language model needs no images, and must not read names of files."""
    (photos / "captions.txt").write_text("image,caption\ngone.jpg,a car\nb.jpg,two dogs\n")
    assert caption_lines(str(photos / "captions.txt")) == ["a car", "two dogs"]
    (photos / "plain.txt").write_text("a car, red\nimage of a dog\n")
    assert caption_lines(str(photos / "plain.txt")) == ["a car, red", "image of a dog"]
    (photos / "plain.txt").write_bytes("a car\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="line 2: not readable as UTF-8"):
        caption_lines(str(photos / "plain.txt"))
    assert caption_lines(f"{photos / 'plain.txt'}?encoding=latin-1") == ["a car", "caf\xe9"]


def test_ordinary_folders(tmp_path):
    """Photos with texts of any case and ending beside them, and photos alone."""
    for name in ("a.JPG", "b.png", "c.jpeg", "d.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    with pytest.raises(ValueError, match=r"holds 4 images but no captions; put a text file"):
        captions(tmp_path)
    (tmp_path / "a.TXT").write_text("one\r\ntwo\r\n")
    (tmp_path / "b.caption").write_text("three")
    (tmp_path / "c.txt").write_bytes("caf\xe9".encode("latin-1"))
    found, skipped = captions(tmp_path)
    assert found == {"a.JPG": ["one", "two"], "b.png": ["three"]}
    assert "not readable as UTF-8" in skipped[0] and "no caption" in skipped[1]
    assert captions(tmp_path, encoding="latin-1")[0]["c.jpeg"] == ["caf\xe9"]


FIELDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), max_size=12
).map(str.strip)


@settings(deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1), st.sampled_from(",;\t"))
def test_what_csv_writes_is_read_again(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    columns = ["image", "caption", "more"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
    read = [row for _, row in separated_rows(path, lambda names: names == columns)]
    assert read == [dict(zip(columns, row, strict=True)) for row in rows if any(row)]


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json"]))
def test_any_bytes_are_rows_or_one_line(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(b"image,caption\n" * name.endswith("v") + data)
    try:
        if name.endswith("v"):
            list(separated_rows(path, lambda names: "caption" in names))
        else:
            list(json_rows(path))
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)


OBJECTS = st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text()))


@settings(deadline=None)
@given(st.lists(OBJECTS))
def test_json_lines_and_lists_are_read_as_they_were_written(tmp_path_factory, items):
    folder = tmp_path_factory.mktemp("json")
    (folder / "a.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "a.json").write_text(json.dumps(items))
    for name in ("a.jsonl", "a.json"):
        assert [row for _, row in json_rows(folder / name)] == items
