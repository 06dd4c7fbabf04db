"""Tars and folders that lie, point elsewhere, have no end, or unpack to gigabytes."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vilta.data.sources import FEATURES

GIGABYTES = 1 << 30


def jpeg(shade: int = 0) -> bytes:
    """Return a small picture."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 90, 90)).save(file, "JPEG")
    return file.getvalue()


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return a member of a tar as it stands there."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + data + bytes(-len(data) % 512)


def promise(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the head of a member that promises more than there is."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


GOOD = member("1.jpg", jpeg()) + member("1.txt", b"a dog")
END = bytes(1024)


def tar(content: bytes) -> Callable[[Path], Path]:
    """Return what writes a tar."""

    def write(folder: Path) -> Path:
        (folder / "0.tar").write_bytes(content)
        return folder / "0.tar"

    return write


def packed_zeros(before: bytes, count: int) -> Callable[[Path], Path]:
    """Return what writes a packed tar whose end are zeros, a thousandth of their number."""

    def write(folder: Path) -> Path:
        with gzip.open(folder / "0.tar.gz", "wb", compresslevel=1) as file:
            file.write(before)
            for _ in range(count >> 20):
                file.write(bytes(1 << 20))
        return folder / "0.tar.gz"

    return write


def files(folder: Path) -> Path:
    """Write an ordinary folder of one pair."""
    (folder / "1.jpg").write_bytes(jpeg())
    (folder / "1.txt").write_text("a dog")
    return folder


def links_out(folder: Path) -> Path:
    """Put a link to a text elsewhere beside a picture."""
    (folder / "2.jpg").symlink_to("/dev/zero")
    (folder / "2.txt").write_text("endless")
    return files(folder)


def pipes(folder: Path) -> Path:
    """Put pipes among the files: whoever opens one waits for ever."""
    os.mkfifo(folder / "2.jpg")
    os.mkfifo(folder / "3.txt")
    (folder / "2.txt").write_text("a pipe")
    (folder / "3.jpg").write_bytes(jpeg())
    return files(folder)


def sparse(folder: Path) -> Path:
    """Put a picture and a text of a terabyte there, which take no room."""
    for name in ("2.jpg", "3.txt"):
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)
    (folder / "2.txt").write_text("a terabyte")
    (folder / "3.jpg").write_bytes(jpeg())
    return files(folder)


def circle(folder: Path) -> Path:
    """Put a folder into itself."""
    (folder / "again").symlink_to(folder)
    return files(folder)


def saved(*paths: str) -> Callable[[Path], Path]:
    """Return what writes a packed folder of a picture and of files elsewhere."""
    named = ["inside", *(paths or [""])]

    def write(folder: Path) -> Path:
        there = [{"bytes": jpeg(i), "path": None} for i, _ in enumerate(named)]
        rest = {"captions": ["x"], "source": "s"}
        rows = [{"image": image, "image_id": str(i)} | rest for i, image in enumerate(there)]
        datasets.Dataset.from_list(rows, features=FEATURES).save_to_disk(str(folder / "good"))
        # `save_to_disk` puts files into the table; a stranger need not.
        (folder / "pack").mkdir()
        for name in ("state.json", "dataset_info.json"):
            (folder / "pack" / name).write_bytes((folder / "good" / name).read_bytes())
        for row, path in zip(rows[1:], named[1:], strict=True):
            row["image"] = {"bytes": None, "path": path or str(folder.parent / "secret.txt")}
        table = pa.Table.from_pylist(rows, FEATURES.arrow_schema)
        [arrow] = (folder / "good").glob("*.arrow")
        with pa.ipc.new_stream(str(folder / "pack" / arrow.name), table.schema) as file:
            file.write_table(table)
        return folder / "pack"

    return write


def parquet_elsewhere(folder: Path) -> Path:
    """Name files outside of the folder in every way."""
    secret = folder.parent / "secret.txt"
    names = [str(secret), "../secret.txt", "x/../../secret.txt", f"file://{secret}", "/dev/zero"]
    pq.write_table(pa.table({"image": names, "caption": ["x"] * 5}), folder / "0.parquet")
    return files(folder) / "0.parquet"


def parquet_bomb(folder: Path) -> Path:
    """Write a caption of 400 MB that packs to kilobytes."""
    table = pa.table({"image": [jpeg()], "caption": ["a" * (400 << 20)]})
    pq.write_table(table, folder / "0.parquet", compression="zstd")
    return folder / "0.parquet"


POISONS: dict[str, Callable[[Path], Path]] = {
    "names that climb": tar(
        b"".join(member(f"{p}.{s}", d) for p in ("../../up", "/tmp/abs", "a/../../b", "..\\w")
                 for s, d in (("jpg", jpeg()), ("txt", b"x"))) + END),
    "links": tar(
        member("1.jpg", kind=tarfile.SYMTYPE, link="../secret.txt") + member("1.txt", b"x")
        + member("2.jpg", kind=tarfile.LNKTYPE, link="/etc/passwd") + member("2.txt", b"x") + GOOD
        + END),
    "devices and pipes": tar(
        b"".join(member(f"{i}.jpg", kind=kind) + member(f"{i}.txt", b"x") for i, kind in enumerate(
            (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE))) + END),
    "a member of a petabyte": tar(GOOD + promise("2.jpg", 1 << 50)),
    "a member of -1 bytes": tar(GOOD + promise("2.jpg", 0).replace(b"00000000000\0", b"\xff" * 12)),
    "a description of a petabyte": tar(GOOD + promise("x", 1 << 50, tarfile.XHDTYPE)),
    "a packed description of 2 GB": packed_zeros(
        GOOD + promise("x", 2 * GIGABYTES, tarfile.XHDTYPE), 2 * GIGABYTES),
    "a packed long name of 2 GB": packed_zeros(
        GOOD + promise("x", 2 * GIGABYTES, tarfile.GNUTYPE_LONGNAME), 2 * GIGABYTES),
    "a packed picture of 2 GB": packed_zeros(
        GOOD + promise("2.jpg", 2 * GIGABYTES) , 2 * GIGABYTES),
    "a packed caption of 200 MB": packed_zeros(
        GOOD + member("2.jpg", jpeg()) + promise("2.txt", 200 << 20), 200 << 20),
    "zeros without end": packed_zeros(GOOD, 2 * GIGABYTES),
    "a hundred thousand empty members": tar(
        b"".join(member(f"{i}.txt") for i in range(100_000)) + END),
    "the same name a thousand times": tar(GOOD * 1_000 + END),
    "a description in circles": tar(
        (promise("x", 512, tarfile.XHDTYPE) + b"20 path=" + b"a" * 504) * 300 + GOOD + END),
    "descriptions alone": packed_zeros(
        promise("x", 2 * GIGABYTES, tarfile.XHDTYPE), 2 * GIGABYTES),
    "descriptions in circles alone": tar(
        (promise("x", 512, tarfile.XHDTYPE) + b"20 path=" + b"a" * 504) * 3000 + GOOD + END),
    "cut in a picture": tar(GOOD + member("2.jpg", jpeg())[:700]),
    "cut in a head": tar(GOOD + member("2.jpg", jpeg())[:300]),
    "bz2 that is called gz": lambda folder: _written(folder, "0.tar.gz", bz2.compress(GOOD + END)),
    "not a tar": tar(b"<html>" * 500),
    "empty": tar(b""),
    "names that are not text": tar(
        member("\udcff\udcfe.jpg", jpeg()) + member("\udcff\udcfe.txt", b"x") + GOOD + END),
    "links to a device": links_out,
    "pipes": pipes,
    "files of a terabyte": sparse,
    "a folder in itself": circle,
    "a pack that names a file elsewhere": saved(),
    "a pack that names devices": saved("/dev/zero", "/dev/stdin", "/proc/self/environ", "../x.jpg"),
    "a table that names files elsewhere": parquet_elsewhere,
    "a packed caption in Parquet": parquet_bomb,
}  # fmt: skip


def _written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name
