"""What lies beside the data and is damaged: refused in a line that names file and field."""

import gzip
import json

import datasets
import numpy as np
import pytest

from vilta.data.images import find_images, merged_ids
from vilta.data.sources import FEATURES, find_reader
from vilta.data.text import caption_lines


@pytest.fixture
def saved(tmp_path):
    row = {"image": None, "captions": ["a dog"], "image_id": "1", "source": "x"}
    folder = tmp_path / "saved"
    datasets.Dataset.from_list([row], features=FEATURES).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("dataset_info.json", [], "holds no object"),
        ("dataset_info.json", {"features": [1]}, "'features'"),
        ("dataset_info.json", {"features": {"image": 7}}, "saved"),
        ("dataset_info.json", {"features": {"image": {"_type": "Value"}}}, "saved"),
        ("state.json", None, "holds no object"),
        ("state.json", {"_data_files": 3}, "'_data_files'"),
        ("state.json", {"_data_files": ["x"]}, "'_data_files' must name files of this folder"),
        ("state.json", {"_data_files": [{"filename": "../../x.arrow"}]}, "files of this folder"),
    ],
)
def test_metadata_of_a_saved_folder(saved, name, change, named):
    path = saved / name
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | change if isinstance(change, dict) else change))
    with pytest.raises(ValueError, match=named) as raised:
        find_reader(str(saved))
    assert "\n" not in str(raised.value)
    assert named == "saved" or str(path) in str(raised.value)


def test_a_packed_text_of_zeros_is_refused_after_its_first_megabytes(tmp_path):
    path = tmp_path / "captions.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match=r"captions.txt.gz is not text .* longer than 4,194,304"):
        caption_lines(str(path))
    with gzip.open(path, "wt") as file:
        file.write("a dog\n" * 300_000)
    assert caption_lines(str(path)) == ["a dog"] * 300_000


def test_a_saved_folder_that_names_no_data(saved):
    path = saved / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_data_files": []}))
    with pytest.raises(ValueError, match="saved by `datasets` but cannot be opened"):
        find_reader(str(saved))


def test_the_format_that_a_saved_folder_was_left_in_is_not_ours(saved):
    path = saved / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_format_columns": []}))
    assert [item.captions for item in find_reader(str(saved)).items()] == [["a dog"]]


def test_a_saved_folder_whose_offsets_point_anywhere(tmp_path):
    """Unchecked, it makes the process read foreign memory."""
    rows = [{"image": None, "captions": ["nine char"], "image_id": "1", "source": "x"}] * 2
    datasets.Dataset.from_list(rows, features=FEATURES).save_to_disk(str(tmp_path))
    good, bad = (np.array(offsets, np.int32).tobytes() for offsets in ([0, 9, 18], [0, 9, 2**30]))
    (data,) = tmp_path.glob("*.arrow")
    content = data.read_bytes()
    assert content.count(good) == 1
    data.write_bytes(content.replace(good, bad))
    with pytest.raises(ValueError, match="cannot be opened"):
        find_reader(str(tmp_path))


@pytest.mark.parametrize(
    "merged",
    [7, None, [7], [{"image_id": "2"}], [{"image_id": "2", "row": "x"}], [{"row": 0}]],
)
def test_merged_items_of_a_manifest_that_say_nothing(tmp_path, merged):
    (tmp_path / "manifest.json").write_text(json.dumps({"merged_items": merged}))
    assert merged_ids(tmp_path) == []


@pytest.mark.parametrize("manifest", [7, [], {"split": 7}, {"split": ["train"]}])
def test_a_manifest_that_names_no_split(saved, manifest):
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="there are: none"):
        find_reader(f"{saved}?split=train")


def test_a_merged_item_of_a_row_that_is_not_there(saved):
    merged = [
        {"image_id": "2", "row": 0},
        {"image_id": "3", "row": 1},
        {"image_id": "4", "row": -1},
    ]
    (saved / "manifest.json").write_text(json.dumps({"merged_items": merged}))
    images = find_images(str(saved))
    assert ("2" in images, "3" in images, "4" in images) == (True, False, False)
