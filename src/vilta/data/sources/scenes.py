"""The built-in scenes as a table of image-text pairs, the form in which all training data comes."""

from __future__ import annotations

import io

import datasets
from PIL import Image

from vilta.data.sources.base import FEATURES
from vilta.scenes import captions, draw, make_scene


def scenes_table(count: int, seed: int, size: int = 96, first: int = 0) -> datasets.Dataset:
    """Return scenes ``first`` to ``first + count - 1`` of split ``seed`` as a pair table.

    Images are PNG bytes of ``size`` x ``size`` pixels, held in memory (about 4 kB each at 96).
    Each row has five captions. ``scene_from_id`` rebuilds a scene from ``image_id``.

    Raises:
        ValueError: if ``count`` is less than 1, or as :func:`make_scene` and :func:`draw` do.
    """
    if count < 1:
        raise ValueError(f"a table of scenes needs count >= 1, got {count}")
    images: list[dict[str, bytes | None]] = []
    texts: list[list[str]] = []
    ids: list[str] = []
    for index in range(first, first + count):
        scene = make_scene(seed, index)
        file = io.BytesIO()
        Image.fromarray(draw(scene, size)).save(file, format="PNG", compress_level=1)
        images.append({"bytes": file.getvalue(), "path": None})
        texts.append(captions(scene))
        ids.append(scene.image_id)
    columns = {"image": images, "captions": texts, "image_id": ids, "source": ["scenes"] * count}
    return datasets.Dataset.from_dict(columns, features=FEATURES)
