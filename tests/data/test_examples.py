"""Images by name, and items of tasks as samples and batches."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import known_tokenizer

from vilta.config import DataConfig
from vilta.data.examples import (
    ExampleCollator,
    ExampleDataset,
    PairItems,
    examples_from,
    shared_images,
)
from vilta.data.images import ImageFolder, PairImages, SceneImages, find_images
from vilta.data.samples import BLANK
from vilta.data.sources.base import FEATURES
from vilta.scenes import draw, make_scene

WORDS = ["is", "this", "red", "blue", "what", "a"]


def png(value, size=(40, 32)):
    """A picture with a gradient, so that a crop shows where it was cut."""
    ramp = np.linspace(0, 120, size[0] * size[1]).reshape(size[1], size[0])
    file = io.BytesIO()
    Image.fromarray((ramp + value).astype(np.uint8)).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, value in {"train/a.png": 10, "train/b.png": 60, "val/a.png": 110}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(value))
    return tmp_path


def rows(*images, text="is this red"):
    return [
        {"id": str(i), "images": [image], "texts": [text], "number": i}
        for i, image in enumerate(images)
    ]


def samples(items, train=False, blind=False, **settings):
    config = DataConfig(image_size=16, max_text_tokens=12, **settings)
    return ExampleDataset(items, lambda row: torch.tensor(row["number"]), config, 0, train, blind)


def test_files_are_found_by_path_name_or_stem(folder):
    images = ImageFolder(folder)
    assert images.read("val/a.png") == png(110)
    assert images.read("b.png") == images.read("b") == images.read("train/b.png") == png(60)
    assert "c.png" not in images and "c" not in images


def test_a_file_in_another_folder_is_not_the_one(folder):
    deep = folder / "deep" / "train" / "x" / "b.png"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(png(200))
    images = ImageFolder(folder)
    assert images.read("train/b.png") == images.read("./train/b.png") == png(60)
    assert images.read("x/b.png") == images.read("deep/train/x/b.png") == png(200)
    assert images.read("above/train/b.png") == png(60), "a folder above the root may be named"
    assert "val/b.png" not in images and "above/b.png" not in images
    for key in ("a.png", "b.png", "b"):
        with pytest.raises(ValueError, match=r"'[ab](\.png)?' is .* and .*name its folder"):
            images.read(key)
    (folder / "b.png").write_bytes(png(5))
    assert ImageFolder(folder).read("b.png") == png(5), "the path itself goes first"


def test_packed_images_are_found_by_id_name_or_stem():
    cells = [{"bytes": png(v), "path": None} for v in (1, 2)]
    table = datasets.Dataset.from_dict(
        {
            "image": cells,
            "captions": [["x"], ["y"]],
            "image_id": ["flickr8k/1.jpg", "flickr8k/2.jpg"],
            "source": ["s", "s"],
        },
        features=FEATURES,
    )
    images = PairImages(table, "packed")
    for key in ("flickr8k/2.jpg", "2.jpg", "2"):
        assert images.read(key) == png(2)
    assert "3" not in images


def test_scenes_are_drawn_when_they_are_wanted():
    images = find_images("scenes:48")
    assert isinstance(images, SceneImages)
    drawn = np.asarray(Image.open(io.BytesIO(images.read("scene-3-4"))))
    assert np.array_equal(drawn, draw(make_scene(3, 4), 48))


def test_missing_images_are_counted_and_the_first_ten_named(folder):
    wanted = ["b.png", *(f"gone-{i}.png" for i in range(12))]
    with pytest.raises(ValueError) as caught:
        examples_from(rows(*wanted), ImageFolder(folder), "items")
    message = str(caught.value)
    assert "12 of 13 images" in message and "\n" not in message
    assert "gone-9.png" in message and "gone-10.png" not in message


def test_no_items_is_one_line(folder):
    with pytest.raises(ValueError, match="items: no items"):
        examples_from([], ImageFolder(folder), "items")


def test_texts_that_are_no_unicode_and_fields_of_some_items(folder):
    """JSON may hold half of a surrogate pair; pairs have it replaced, too."""
    content = [*rows("b.png", text="a red \ud83d"), rows("b.png")[0] | {"kind": "colour"}]
    items = examples_from(content, ImageFolder(folder), "items")
    assert items.rows["texts"][0] == ["a red ?"]
    assert items.rows["kind"][:] == [None, "colour"]


def test_a_sample_is_a_function_of_epoch_and_row(folder):
    items = examples_from(rows("train/a.png", "b.png"), ImageFolder(folder), "items")
    one, other = (samples(items, train=True, augmentation="crop") for _ in range(2))
    _ = other[0, 1]  # what was read before does not matter
    for key in [(0, 0), (0, 1), (3, 0)]:
        assert torch.equal(one[key].pixels[0], other[key].pixels[0])
    assert not torch.equal(one[0, 0].pixels[0], one[1, 0].pixels[0])


def test_an_image_has_one_crop_an_epoch_whoever_asks(folder):
    items = examples_from(rows("b.png", "b.png"), ImageFolder(folder), "items")
    data = samples(items, train=True, augmentation="crop")
    assert torch.equal(data[2, 0].pixels[0], data[2, 1].pixels[0])


def test_the_cache_changes_nothing(folder):
    items = examples_from(rows("b.png", "train/a.png"), ImageFolder(folder), "items")
    plain, cached = (samples(items, True, augmentation="crop", cache=c) for c in (False, True))
    for key in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        assert torch.equal(plain[key].pixels[0], cached[key].pixels[0])


def test_an_unreadable_image_is_replaced_in_training_and_blank_in_evaluation(folder):
    (folder / "bad.png").write_bytes(b"no image")
    items = examples_from(rows("bad.png", "b.png"), ImageFolder(folder), "items")
    trained = samples(items, train=True)
    assert trained[0, 0].target == 1
    assert trained.counts["bad"] >= 1
    evaluated = samples(items)
    assert evaluated[0, 0].target == 0
    assert (evaluated[0, 0].pixels[0] == BLANK).all()
    assert evaluated.blanks == 1 and trained.blanks == 0
    with pytest.raises(ValueError, match="bad sample items#0"):
        samples(items, strict=True)[0, 0]


def test_blind_shows_grey_and_nothing_else(folder):
    items = examples_from(rows("b.png"), ImageFolder(folder), "items")
    assert (samples(items, blind=True)[0, 0].pixels[0] == BLANK).all()
    assert not (samples(items)[0, 0].pixels[0] == BLANK).all()


def test_a_batch_holds_each_image_once(folder):
    content = rows("b.png", "train/a.png", "b.png")
    content[0]["texts"] = ["red", "is this blue a"]
    items = examples_from(content, ImageFolder(folder), "items")
    data, tokenizer = samples(items), known_tokenizer(WORDS)
    batch = ExampleCollator(tokenizer, 12)([data[0, i] for i in range(3)])
    assert batch.pixel_values.shape == (2, 3, 16, 16)
    assert batch.image_index.tolist() == [[0], [1], [0]]
    assert batch.text_to_item.tolist() == [0, 0, 1, 2]
    assert batch.targets.tolist() == [0, 1, 2] == batch.rows.tolist()
    for row in range(3):
        shown = batch.pixel_values[batch.image_index[row, 0]]
        assert torch.equal(shown, data[0, row].pixels[0])
    alone = ExampleCollator(tokenizer, 12)([data[0, 1]])
    length = alone.attention_mask.sum()
    assert torch.equal(alone.input_ids[0, :length], batch.input_ids[2, :length])
    assert batch.attention_mask[2].sum() == length
    assert len(batch) == 3 and batch.to("cpu").names == batch.names


def test_sets_share_an_image_if_name_and_bytes_agree(folder):
    def of(root, *names):
        return examples_from(rows(*names), ImageFolder(folder / root), root)

    assert shared_images(of("train", "a.png", "b.png"), of("val", "a.png")) == []
    assert shared_images(of("train", "a.png", "b.png"), of("train", "b.png")) == ["b.png"]


def test_pairs_share_images_by_their_ids():
    from vilta.data.sources import load_pairs

    def pairs(name):
        return PairItems(load_pairs(name), name)

    first = pairs("scenes:6?seed=1&size=32")
    assert shared_images(first, pairs("scenes:6?seed=2&size=32")) == []
    shared = shared_images(first, pairs("scenes:3?seed=1&size=32&first=4"))
    assert shared == ["scene-1-4", "scene-1-5"]
