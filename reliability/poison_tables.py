"""Tables and captions as nobody should write them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from poison_archives import files, jpeg

Writer = Callable[[Path], Path]
DEEP = 100_000
"""Levels of nested brackets."""


def text(name: str, content: bytes | str) -> Writer:
    """Return what writes a file beside a picture."""
    data = content.encode() if isinstance(content, str) else content

    def write(folder: Path) -> Path:
        files(folder)
        (folder / "1.txt").unlink()
        (folder / name).write_bytes(data)
        return folder / name

    return write


def columns(table: pa.Table) -> Writer:
    """Return what writes a Parquet file beside a picture."""

    def write(folder: Path) -> Path:
        pq.write_table(table, files(folder) / "0.parquet")
        return folder / "0.parquet"

    return write


def packed(content: bytes, times: int) -> Writer:
    """Return what writes a packed text."""

    def write(folder: Path) -> Path:
        with gzip.open(folder / "captions.txt.gz", "wb", compresslevel=1) as file:
            for _ in range(times):
                file.write(content)
        return folder / "captions.txt.gz"

    return write


def coco(images: object, annotations: object) -> Writer:
    """Return what writes a caption file of COCO."""
    return text("captions_x.json", json.dumps({"images": images, "annotations": annotations}))


HEAD = "file_name,caption\n"
IMAGE = {"image": [jpeg()] * 2}

TABLES: dict[str, Writer] = {
    "a quote that is never closed": text("metadata.csv", HEAD + '1.jpg,"a dog\n' + "1.jpg,b\n" * 9),
    "a line of 50 MB": text("metadata.csv", HEAD + "1.jpg," + "a" * (50 << 20) + "\n"),
    "a million columns": text("metadata.csv", HEAD + "1.jpg" + ",x" * 1_000_000 + "\n"),
    "a million columns in the head": text("metadata.csv", "file_name,caption" + ",x" * 1_000_000),
    "a head alone": text("metadata.csv", HEAD),
    "no head": text("metadata.csv", "1.jpg,a dog\n"),
    "two columns of one name": text("metadata.csv", "file_name,caption,caption\n1.jpg,a,b\n"),
    "zeros": text("metadata.csv", bytes(10_000)),
    "a picture": text("metadata.csv", jpeg()),
    "UTF-16 without its mark": text("metadata.csv", (HEAD + "1.jpg,a dog\n").encode("utf-16-le")),
    "UTF-16 with it": text("metadata.csv", (HEAD + "1.jpg,a dog\n").encode("utf-16")),
    "UTF-7 and surrogates": text("metadata.csv", HEAD.encode() + b"1.jpg,\xed\xa0\x80\n"),
    "Latin-1": text("metadata.csv", HEAD.encode() + b"1.jpg,caf\xe9\n"),
    "old ends of lines": text("metadata.csv", HEAD.replace("\n", "\r") + "1.jpg,a dog\r"),
    "names that climb": text("metadata.csv", HEAD + "../secret.txt,x\n/etc/passwd,y\n1.jpg,z\n"),
    "names with zeros and breaks": text("metadata.csv", HEAD + '"1\0.jpg",x\n"1\n.jpg",y\n'),
    "a name of a megabyte": text("metadata.csv", HEAD + "a" * (1 << 20) + ".jpg,x\n1.jpg,z\n"),
    "a name of a thousand folders": text("metadata.csv", HEAD + "a/" * 50_000 + "1.jpg,x\n"),
    "a formula": text("metadata.csv", HEAD + '1.jpg,"=cmd|\'/c calc\'!A0"\n'),
    "a hundred thousand rows of one picture": text("metadata.csv", HEAD + "1.jpg,a\n" * 100_000),
    "deep JSON": text("a.json", "[" * DEEP),
    "deep JSON that is closed": text("a.json", "[" * DEEP + "]" * DEEP),
    "deep objects in lines": text("metadata.jsonl", '{"a":' * DEEP + "1" + "}" * DEEP + "\n"),
    "a number of a million digits": text("a.jsonl", '{"file_name": ' + "9" * 1_000_000 + "}"),
    "keys that stand twice": text(
        "metadata.jsonl", '{"file_name": "1.jpg", "text": "a", "text": "b"}\n'),
    "infinity and NaN": text(
        "metadata.jsonl", '{"file_name": "1.jpg", "text": NaN, "x": Infinity}\n'),
    "objects where text should be": text(
        "metadata.jsonl", '{"file_name": {"a": 1}, "text": [{}, [], 1, null]}\n'),
    "lines that are not objects": text(
        "metadata.jsonl", '1\n"x"\n[]\nnull\n{}\n{"file_name": "1.jpg"}'),
    "COCO: ids of all kinds": coco(
        [{"id": x, "file_name": "1.jpg"} for x in (1, "1", 1.0, True, None, [1], {})],
        [{"image_id": x, "caption": x} for x in (1, "1", 1.0, True, None, [1], {})]),
    "COCO: no lists": coco({}, "x"),
    "COCO: a million images without names": coco([{}] * 300_000, [{}] * 300_000),
    "Karpathy: wrong kinds": text("dataset_x.json", json.dumps(
        {"images": [{"filename": n, "sentences": s, "split": p} for n, s, p in (
            ("1.jpg", 3, []), (4, [], {}), ("1.jpg", [{"raw": 5}], "train"), ("", None, None))]})),
    "Parquet: no columns": columns(pa.table({})),
    "Parquet: no rows": columns(pa.table({"image": pa.array([], pa.binary()), "caption": []})),
    "Parquet: numbers": columns(pa.table({"image": [1, 2], "caption": [3.0, float("nan")]})),
    "Parquet: nested": columns(pa.table(IMAGE | {"caption": [[["a"]], [[None]]]})),
    "Parquet: nothing but nulls": columns(pa.table({"image": [None] * 3, "caption": [None] * 3})),
    "Parquet: two hundred thousand rows of nulls": columns(
        pa.table({"image": pa.nulls(200_000, pa.binary()), "caption": pa.nulls(200_000)})),
    "Parquet: base64 that is none": columns(
        pa.table({"image": ["A" * 41, "data:image/png;base64,####"], "caption": ["x", "y"]})),
    "Parquet: five thousand columns": columns(
        pa.table(IMAGE | {"caption": ["a", "b"]} | {f"c{i}": [1, 2] for i in range(5_000)})),
}  # fmt: skip

CAPTIONS: dict[str, Writer] = {
    "nothing but spaces": text("c.txt", " \n\t\n\u2003\n" * 1000),
    "nothing": text("c.txt", ""),
    "a line of 50 MB": text("c.txt", "a" * (50 << 20)),
    "a million lines": text("c.txt", "a dog\n" * 1_000_000),
    "controls": text("c.txt", "a\x00b\x07c\x1b[31md\n\x0c\n\x85\n"),
    "marks of direction": text("c.txt", "a \u202edog\u202c\n\u2066x\n"),
    "a thousand accents on a letter": text("c.txt", "a" + "\u0301" * 100_000),
    "joined pictures": text("c.txt", "\U0001f468\u200d\U0001f469\u200d" * 20_000),
    "half a letter": text("c.txt", b"a dog \xf0\x9f\n"),
    "lines of Unicode": text("c.txt", "a\u2028b\u2029c\x0bd\n"),
    "zeros, packed": packed(bytes(1 << 20), 400),
    "one line, packed": packed(b"a" * (1 << 20), 400),
    "lines without end, packed": packed(b"a dog\n" * 100_000, 20),
    "not packed": text("c.txt.gz", "a dog\n"),
    "cut while packed": text("c.txt.gz", gzip.compress(b"a dog\n" * 1000)[:40]),
}
