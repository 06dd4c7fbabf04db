import io

import numpy as np
import pytest
from PIL import Image

from vilta import scenes
from vilta.data.sources.scenes import scenes_table


def test_the_table_holds_the_scenes():
    table = scenes_table(4, seed=3, size=48, first=10)
    assert table.column_names == ["image", "captions", "image_id", "source"]
    assert table["image_id"][:] == [f"scene-3-{i}" for i in range(10, 14)]
    assert set(table["source"]) == {"scenes"}
    for row in table:
        scene = scenes.scene_from_id(row["image_id"])
        assert row["captions"] == scenes.captions(scene)
        assert np.array_equal(np.array(row["image"]), scenes.draw(scene, 48))  # lossless


def test_the_bytes_inside_are_an_image_file():
    raw = scenes_table(1, seed=0).with_format("arrow")[0]["image"][0].as_py()
    with Image.open(io.BytesIO(raw["bytes"])) as image:
        assert image.size == (96, 96) and image.mode == "RGB"


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="count >= 1"):
        scenes_table(0, seed=0)
