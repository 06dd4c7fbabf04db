"""What cannot be read, too late or not at all, is one line that names it."""

import gzip
import tarfile
from tarfile import ReadError

import datasets
import pytest
from PIL import Image

from vilta.data.examples import Examples
from vilta.data.images import ImageFolder, PairImages
from vilta.data.samples import image_bytes as bytes_of_row
from vilta.data.sources import FEATURES, SourceOptions, base, find_reader, load_pairs
from vilta.data.sources.coco import CocoReader
from vilta.data.sources.files import is_tar, tar_members
from vilta.data.sources.image_cells import files_below, image_bytes
from vilta.data.sources.options import named_options
from vilta.data.sources.saved import TableReader
from vilta.data.sources.tables import decoded
from vilta.data.text import caption_lines


def refused(problem, run, *arguments, kind=ValueError):
    with pytest.raises(kind, match=problem) as error:
        run(*arguments)
    assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "1.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "a" / "2.jpg")
    return tmp_path


def test_images_that_are_not_there_any_more(photos):
    images = ImageFolder(photos)
    assert images.read("2.jpg")[:2] == b"\xff\xd8"
    (photos / "a" / "2.jpg").unlink()
    refused("cannot read .*2.jpg: No such file", images.read, "2.jpg")
    refused("no image '3.jpg' below", images.read, "3.jpg")
    refused("cannot read", bytes_of_row, {"bytes": None, "path": str(photos / "3.jpg")})


def test_a_name_that_two_images_have(photos):
    refused("name its folder too", files_below(photos), "1.jpg", kind=OSError)


def test_an_image_that_a_packed_folder_does_not_hold():
    row = {"image": None, "captions": ["a dog"], "image_id": "1", "source": "x"}
    images = PairImages(datasets.Dataset.from_list([row], features=FEATURES), "mine")
    refused("no image '7' in mine", images.read, "7")


def test_examples_without_any(tmp_path):
    rows = datasets.Dataset.from_dict({"id": []})
    with pytest.raises(ValueError, match="mine: no items"):
        Examples(rows=rows, images=ImageFolder(tmp_path), name="mine")


def test_a_table_without_rows():
    content = datasets.Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)
    refused("mine .* is empty", TableReader(content, "mine", "data set of the hub").table)


def test_a_source_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.jpg")
    (tmp_path / "1.txt").write_text("a dog")
    assert len(load_pairs(str(tmp_path))) == 1
    monkeypatch.setattr(base, "MEMORY_LIMIT", 10)
    refused("too large to be read into memory; run `vilta pack` first", load_pairs, str(tmp_path))


def test_names_that_no_file_can_have():
    refused("cannot be read: File name too long", find_reader, "a" * 5000)
    refused("no such text file: nowhere.txt", caption_lines, "nowhere.txt")
    refused("no option 'colour'", named_options, "a.csv?encoding=x&colour=red", SourceOptions())


def test_files_that_are_something_else(tmp_path):
    refused("cannot be read: Is a directory", decoded, tmp_path)
    refused(
        "is not a COCO caption file", CocoReader, tmp_path / "captions.json", {}, SourceOptions()
    )
    refused("base64", image_bytes, "A" * 33, lambda path: b"", kind=OSError)


def test_cells_and_texts_that_hold_nothing(tmp_path):
    refused("no image", bytes_of_row, None)
    refused("no image", bytes_of_row, {})
    refused("the image is a int, not bytes", image_bytes, 7, lambda path: b"", kind=OSError)
    refused("holds 2 images", image_bytes, [b"x", b"y"], lambda path: b"", kind=OSError)
    (tmp_path / "captions.txt").write_text(" \n\n")
    refused("captions.txt contains no captions", caption_lines, str(tmp_path / "captions.txt"))


def test_a_tar_in_which_every_member_is_the_name_of_the_next(tmp_path):
    name = tarfile.TarInfo("././@LongLink")
    name.type = tarfile.GNUTYPE_LONGNAME
    content = name.tobuf() * 500  # tarfile calls itself for each
    for file, data in {"a.tar": content, "a.tar.gz": gzip.compress(content)}.items():
        (tmp_path / file).write_bytes(data)
        refused("hundreds of descriptions", list, tar_members(tmp_path / file), kind=ReadError)
        assert not is_tar(tmp_path / file)


def test_a_packed_tar_that_is_cut_off_in_its_head(tmp_path):
    whole, said = gzip.compress(bytes(10_240), mtime=0), []
    for cut in range(10):
        (tmp_path / "a.tar.gz").write_bytes(whole[:cut])
        with pytest.raises(ReadError) as error:
            list(tar_members(tmp_path / "a.tar.gz"))
        said.append(str(error.value))
    assert said[3] == "its head is cut off"
    assert set(said) == {"empty file", "truncated header", said[3]}


def test_a_file_of_this_machine_that_a_hub_data_set_names(tmp_path, monkeypatch):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (9, 9)).save(secret)
    row = {"image": {"bytes": None, "path": str(secret)}, "captions": ["a dog"]}
    features = datasets.Features({name: FEATURES[name] for name in row})
    content = datasets.DatasetDict({"train": datasets.Dataset.from_list([row], features=features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: content)
    (item,) = find_reader("hub:someone/mine").items()
    refused("which is not part of the data set", item.read, kind=OSError)
