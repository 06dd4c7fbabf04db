import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilta.data.inspection import (
    ImageHashes,
    inspect_pairs,
    look_of,
    repeated,
    same_captions,
    same_images,
)


def picture(seed, size=(60, 40), kind="PNG", quality=90):
    rng = np.random.default_rng(seed)
    grey = rng.permuted(np.linspace(0, 255, 9).astype(np.uint8)[None].repeat(8, 0), axis=1)
    small = Image.fromarray(grey).convert("RGB")  # neighbours differ by a ninth or more
    file = io.BytesIO()
    small.resize(size, Image.Resampling.BOX).save(file, kind, quality=quality)
    return file.getvalue()


def row(data, source, *captions):
    image = {"bytes": data, "path": None}
    return {"image": image, "captions": list(captions), "image_id": source, "source": source}


def test_everything_is_counted():
    found = inspect_pairs(
        [
            row(picture(1), "a", "A dog, a DOG!", "the dog's ball"),
            row(picture(2, (30, 90), "JPEG"), "b", "a dog a dog"),
            row(b"<html>", "c", "x"),
        ]
    )
    assert (found.images, found.captions) == (3, 4)
    assert found.captions_per_image == {2: 1, 1: 2}
    assert found.words_per_caption == {4: 2, 3: 1, 1: 1}
    assert found.words == {"a": 4, "dog": 4, "the": 1, "dog's": 1, "ball": 1, "x": 1}
    assert found.formats == {"PNG": 1, "JPEG": 1}
    assert found.median_size() == (45, 65)
    assert found.repeated_captions() == 1  # spelling and punctuation aside
    assert [source for source, _ in found.broken] == ["c"]
    assert inspect_pairs([]).median_size() == (0, 0)


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 255), max_size=20), st.integers(0, 255))
def test_a_hash_is_found_by_a_slow_comparison_of_bits(looks, margin):
    """Many agree in a part, as pictures with an even margin do."""
    hashes, added = ImageHashes(), []
    for look in [*looks, *(look ^ margin << 4 for look in looks)]:
        near = [other for other in added if (look ^ other).bit_count() < 4]
        found = hashes.find(look)
        assert found in near if near else found is None
        hashes.add(look)
        added.append(look)


def test_the_same_picture_is_found_at_any_size_and_quality():
    first = inspect_pairs([row(picture(i, (300, 200)), f"big {i}", f"big {i}") for i in range(40)])
    other = inspect_pairs(
        [
            row(picture(3, (75, 50), "JPEG", 60), "small 3", "big 3"),
            row(picture(5, (300, 200)), "copy 5", "five"),
            row(picture(99, (300, 200)), "new", "new"),
        ]
    )
    assert same_images(first, other) == [
        ("big 5", "copy 5", "identical bytes"),
        ("big 3", "small 3", "similar picture"),
    ]
    assert same_captions(first, other) == 1
    assert repeated(first.by_hash.values()) == []


def test_flat_pictures_are_no_duplicates_of_one_another():
    def flat(shade):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (shade, shade, shade)).save(file, "PNG")
        return file.getvalue()

    found = inspect_pairs([row(flat(i), f"{i}", "grey") for i in range(5)])
    assert repeated(found.by_hash.values()) == [] and len(found.by_content) == 5
    found = inspect_pairs([row(flat(7), name, "grey") for name in ("x", "y", "z")])
    assert repeated(found.by_content.values()) == [[0, 1, 2]] and found.names == ["x", "y", "z"]


def test_rows_of_one_source_are_told_apart():
    """All of a hub data set, or of the built-in scenes, has one source."""
    rows = [row(picture(i), "scenes", f"{i}") | {"image_id": f"scene-{i}"} for i in range(4)]
    first, other = inspect_pairs(rows), inspect_pairs([*rows, row(picture(9), "new", "new")])
    assert same_images(first, other) == [
        (f"scenes: scene-{i}", f"scenes: scene-{i}", "identical bytes") for i in range(4)
    ]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_look_is_a_slow_comparison_of_cells(mode):
    image = Image.open(io.BytesIO(picture(4, (90, 80)))).convert(mode)
    cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).tolist()
    bits = "".join("1" if r[x] < r[x + 1] else "0" for r in cells for x in range(8))
    assert look_of(image) == int(bits, 2)
