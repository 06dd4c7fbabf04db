"""Visual Genome: `region_descriptions.json` beside `image_data.json` and the folders of images.

The layout, from https://homes.cs.washington.edu/~ranjay/visualgenome/api.html: an array of images
with ``id`` and ``regions``, of each region ``x``, ``y``, ``width``, ``height`` and ``phrase``; the
image with id 1 is `VG_100K/1.jpg` or `VG_100K_2/1.jpg`. The file is so large (700 MB) that it is
read as a stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from vilta.data.sources.base import Item, Reader, as_list
from vilta.data.sources.files import ImageFiles, find_or_skip, json_array
from vilta.decoding import MIN_SIDE, bounded_bytes, decode_image

REGIONS = "region_descriptions.json"
SIZES = "image_data.json"
CROP_QUALITY = 90
"""JPEG quality of a region that is cut out (our choice)."""


class VisualGenomeReader(Reader):
    """Regions as captions of the whole image, as METER has them, or as images of their own."""

    what = "Visual Genome's region descriptions"

    def __init__(self, folder: Path, crops: bool) -> None:
        super().__init__(str(folder / REGIONS))
        self.folder, self.crops = folder, crops
        sizes = folder / SIZES
        self.images = sum(1 for _ in json_array(sizes)) if sizes.is_file() else None

    @property
    def total(self) -> int | None:
        """Number of images, from `image_data.json`; for regions it is not known in advance."""
        return None if self.crops else self.images

    def items(self) -> Iterator[Item]:
        """Yield images, or regions, in the order of the file."""
        files = ImageFiles(self.folder)
        for entry in json_array(self.folder / REGIONS):
            number = entry.get("id") if isinstance(entry, dict) else None
            path = find_or_skip(self, files, f"{number}.jpg", f"{REGIONS}: image {number}")
            if path is None:
                continue
            regions = [r for r in as_list(entry.get("regions")) if isinstance(r, dict)]
            if self.crops:
                yield from _cut_out(path, number, regions)
                continue
            yield Item(
                captions=list(dict.fromkeys(str(r.get("phrase") or "") for r in regions)),
                image_id=f"visual_genome/{path.name}",
                source=str(path),
                read=partial(bounded_bytes, path),
            )


def find_visual_genome(folder: Path, crops: bool) -> VisualGenomeReader | None:
    """Return the reader of a folder with Visual Genome's files, or None."""
    return VisualGenomeReader(folder, crops) if (folder / REGIONS).is_file() else None


def _cut_out(path: Path, number: Any, regions: list[dict[str, Any]]) -> Iterator[Item]:
    """Yield one item a region; the image is opened when its bytes are wanted."""
    for place, region in enumerate(regions):
        name = f"{number}-{region.get('region_id', place)}"
        yield Item(
            captions=region.get("phrase"),
            image_id=f"visual_genome/{name}",
            source=f"{path}#{name}",
            read=partial(_crop, path, region),
        )


def _crop(path: Path, region: dict[str, Any]) -> bytes:
    """Return a region as JPEG; ``OSError`` if there is none to be had."""
    try:
        left, top, width, height = (int(region[k]) for k in ("x", "y", "width", "height"))
        image = decode_image(bounded_bytes(path))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise OSError(f"no region: {error}") from None
    box = max(left, 0), max(top, 0), min(left + width, image.width), min(top + height, image.height)
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        raise OSError(f"the region is smaller than {MIN_SIDE} pixels")
    file = io.BytesIO()
    image.crop(box).save(file, "JPEG", quality=CROP_QUALITY)
    return file.getvalue()
