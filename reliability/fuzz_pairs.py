"""What `fuzz_readers.py` fuzzes of images and of what holds them: tars, tables, packed folders."""

from __future__ import annotations

import base64
import contextlib
import io
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from damage import Made, Seed, tar
from fuzz_parser import (
    JPEG,
    KARPATHY,
    Parser,
    encoded,
    plain,
    read_folder,
    read_pairs,
    write_picture,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilta.data.images import find_images
from vilta.data.inspection import inspect_pairs
from vilta.data.sources import FEATURES, find_reader, find_shards
from vilta.data.sources.patterns import shard_reader, stored_count
from vilta.decoding import decode_image, decode_pixels


def pictures() -> list[Seed]:
    """Return a picture in every format that is read, and in odd modes."""
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    texts, turned = PngInfo(), Image.Exif()
    texts.add_text("a", "b" * 50, zip=True)
    texts.add_itxt("c", "d")
    turned[0x0112] = 6
    return [
        *(encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")),
        encoded("JPEG", progressive=True, exif=turned.tobytes()),
        encoded("JPEG", "CMYK"),
        encoded("PNG", "P", transparency=1, pnginfo=texts),
        *(encoded(kind, mode) for kind in ("PNG", "TIFF") for mode in ("I;16", "1", "LA", "RGBA")),
        encoded("TIFF", "F"),
        encoded("WEBP", "RGBA", lossless=True),
        *([encoded("HEIF")] if find_spec("pillow_heif") else []),
    ]


def decode_all(path: Path) -> None:
    """Decode an image with both decoders; what one refuses the other refuses too."""
    data = path.read_bytes()
    row = {"image": {"bytes": data}, "captions": ["x"], "image_id": "1", "source": "1"}
    inspect_pairs([row])
    try:
        image = decode_image(data)
    except ValueError:
        with contextlib.suppress(ValueError):
            decode_pixels(data)
            raise AssertionError("only one decoder refuses it") from None
        raise
    assert decode_pixels(data).shape == (image.height, image.width, 3)


def read_shard(path: Path) -> None:
    """Read a shard to its end, and count it; a damaged Parquet file may not hold what it says."""
    reader = shard_reader(find_shards(str(path))[0])
    found = sum(1 for _ in reader.items())
    assert reader.total is None or reader.total >= 0
    try:
        number = shard_reader(str(path)).count()
    except (OSError, pa.ArrowException):
        number = 0
    assert number == found or reader.skipped or path.suffix == ".parquet"


def read_tar_beside(path: Path) -> None:
    """Read the tar beside a file that says what it should hold."""
    shard = path.parent / "0.tar"
    stored_count(str(shard))
    for _ in shard_reader(str(shard)).found():
        pass


def read_packed(path: Path) -> None:
    """Read a folder that was packed, and its images by name."""
    read_pairs(path.parent)
    with contextlib.suppress(ValueError):  # the manifest says of which split it is
        find_reader(f"{path.parent}?split=train")
    images = find_images(str(path.parent))
    assert "1" not in images or images.read("1")


TAR = {"1.jpg": JPEG, "1.txt": b"a dog", "2.jpg": JPEG, "2.json": plain({"caption": "x"})}


Columns = dict[str, list[Any]]


def columnar(columns: Columns, arrow: bool = False) -> bytes:
    """Return a table as a Parquet or an Arrow file."""
    table, file = pa.table(columns), io.BytesIO()
    if arrow:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, file)
    return file.getvalue()


def columns(image: Any, captions: Any = "a dog") -> Columns:
    """Return two rows of pairs."""
    return {"image": [image] * 2, "caption": [captions] * 2, "image_id": [1, 2], "split": ["a"] * 2}


METER: Columns = {
    "image": [JPEG],
    "caption": [["a dog"]],
    "image_id": ["1.jpg"],
    "split": ["train"],
}
DOWNLOADS: Columns = {
    "key": ["1", "2"],
    "status": ["success", "failed"],
    "error_message": [None, "404"],
}


def write_packed(folder: Path) -> None:
    """Write a folder as `vilta pack` leaves it."""
    row = {"image": {"bytes": JPEG}, "captions": ["a dog"], "image_id": "1", "source": "x"}
    table = datasets.Dataset.from_list([row], features=FEATURES)
    table.save_to_disk(str(folder))
    merged = [{"image_id": "2", "row": 0, "source": "x", "captions": ["b"]}]
    manifest = {"split": "train", "rows": 1, "source": "x", "merged_items": merged}
    (folder / "manifest.json").write_bytes(plain(manifest))


def packed_file(name: str) -> Seed:
    """Return one file of such a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write_packed(Path(folder))
        return (Path(folder) / name).read_bytes()


PACKED = ("state.json", "dataset_info.json", "manifest.json", "data-00000-of-00001.arrow")


def write_saved(folder: Path) -> None:
    """Write a packed folder, one with splits as `datasets` saves it, and a shard."""
    write_packed(folder / "packed")
    write_packed(folder / "splits" / "train")
    (folder / "splits" / "dataset_dict.json").write_bytes(plain({"splits": ["train"]}))
    (folder / "shards").mkdir()
    (folder / "shards" / "0.tar").write_bytes(tar(TAR))


PARSERS = [
    Parser("images", {"image": (decode_all, pictures())}),
    Parser(
        "tars",
        {
            "0.tar": (read_pairs, [Made(TAR, tar)]),
            "1.tar": (read_shard, [Made({"a/1.jpg": JPEG, "a/1.txt": b"a dog"}, tar)]),
            "2.tar.gz": (read_shard, [Made(TAR, lambda parts: tar(parts, "w:gz"))]),
            "karpathy.tar": (
                read_pairs,
                [Made({"dataset_flickr8k.json": plain(KARPATHY), "1.jpg": JPEG}, tar)],
            ),
        },
    ),
    Parser(
        "columnar",
        {
            "0.parquet": (
                read_shard,
                [
                    columnar(columns(JPEG, ["a dog"])),
                    columnar(columns(base64.b64encode(JPEG).decode())),
                    columnar(columns({"bytes": JPEG, "path": None}, "['a dog', 'a cat']")),
                    columnar(columns(list(JPEG))),
                    columnar({"jpg": [JPEG, None], "caption": ["a"] * 2, **DOWNLOADS}),
                ],
            ),
            "metadata.parquet": (
                read_folder,
                [columnar({"file_name": ["1.jpg"], "caption": ["a dog"]})],
            ),
            "0.arrow": (read_shard, [columnar(columns(JPEG, ["a"]), arrow=True)]),
            "coco_caption_karpathy_train.arrow": (read_pairs, [columnar(METER, arrow=True)]),
        },
        write_picture,
    ),
    Parser(
        "saved_folders",
        {
            **{f"packed/{name}": (read_packed, [packed_file(name)]) for name in PACKED},
            "splits/dataset_dict.json": (read_folder, [plain({"splits": ["train"]})]),
            "shards/0_stats.json": (read_tar_beside, [plain({"successes": 2, "count": 2})]),
            "shards/sizes.json": (read_tar_beside, [plain({"0.tar": 2})]),
            "shards/0.parquet": (read_tar_beside, [columnar(DOWNLOADS)]),
        },
        write_saved,
    ),
]
