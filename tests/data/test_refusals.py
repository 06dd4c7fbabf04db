"""Guards of readers that no other test meets: each says in one line what to do."""

import io
import json
import tarfile

import datasets
import pytest
from PIL import Image
from upath import UPath

from vilta.data.images import ImageFolder
from vilta.data.samples import image_bytes
from vilta.data.sources import FEATURES, SourceOptions, find_reader
from vilta.data.sources.image_cells import files_below
from vilta.data.text import caption_lines
from vilta.tasks.formats.csv_lines import csv_lines
from vilta.tasks.formats.question_files import read_questions

ENTRY = {"filename": "1.jpg", "sentences": [{"raw": "a dog"}]}


def picture(path):
    Image.new("RGB", (20, 20)).save(path)


def split_file(path, *splits):
    entries = [ENTRY | {"split": split} for split in splits]
    path.write_text(json.dumps({"images": entries, "dataset": "x"}))


def tar_of(path, name, data):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))


def refuses(problem, path, **options):
    with pytest.raises(ValueError, match=problem) as error:
        list(find_reader(str(path), SourceOptions(**options)).rows())
    assert "\n" not in str(error.value)


def test_splits_that_a_source_does_not_have(tmp_path):
    refuses("scenes:3 has no splits", "scenes:3", split="train")
    picture(tmp_path / "1.jpg")
    (tmp_path / "1.txt").write_text("a dog")
    refuses("has no splits; leave `split` empty", tmp_path, split="train")
    saved = tmp_path / "saved"
    row = {"image": None, "captions": ["a dog"], "image_id": "1", "source": "x"}
    datasets.Dataset.from_list([row], features=FEATURES).save_to_disk(str(saved))
    refuses("train", saved, split="train")


def test_split_files(tmp_path):
    picture(tmp_path / "1.jpg")
    split_file(tmp_path / "dataset_a.json", "train", "val")
    refuses("a split must be named; there are: train, val", tmp_path)
    refuses("test", tmp_path, split="test")
    split_file(tmp_path / "dataset_b.json", "train")
    refuses("several split files; name one of them: dataset_a.json, dataset_b.json", tmp_path)
    tar_of(tmp_path / "a.tar", "1.jpg", (tmp_path / "1.jpg").read_bytes())
    refuses(r"a\.tar contains no Karpathy split file", tmp_path / "a.tar")
    tar_of(tmp_path / "b.tar", "dataset_x.json", b"{")
    refuses(r"b\.tar cannot be read \(dataset_x\.json\)", tmp_path / "b.tar")


def test_nothing_named_and_nothing_there(tmp_path):
    refuses("no data were named", "")
    with pytest.raises(ValueError, match=r"no such text file: .*c\.txt"):
        caption_lines(str(tmp_path / "c.txt"))
    with pytest.raises(ValueError, match="no image 'x"):
        ImageFolder(tmp_path).read("x.jpg")
    with pytest.raises(ValueError, match="no image"):
        image_bytes(None)
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ValueError, match=r"a\.csv cannot be read"):
        csv_lines(tmp_path / "a.csv", ("image",))


def test_several_question_files(tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}_questions.json").write_text('{"questions": []}')
    with pytest.raises(ValueError, match=r"name one question file; there are: train.*, val"):
        read_questions(str(tmp_path))


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret", "a/../../secret"])
def test_paths_in_an_object_store_stay_below_their_folder(path):
    with pytest.raises(OSError, match="not a path below"):
        files_below(UPath("memory://bucket/folder"))(path)
