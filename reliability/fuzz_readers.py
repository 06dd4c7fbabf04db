"""Fuzz everything that reads foreign files: any bytes may only give rows, skips, or a ValueError.

    python reliability/fuzz_readers.py --minutes 10

With `atheris` installed (`pip install atheris`) it is guided by coverage; otherwise, and with
`--random`, valid files are damaged at random. An input that breaks the rule is written to the
working folder and ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["vilta.data"]) if atheris else contextlib.nullcontext():
    from vilta.data.mixture import read_mixture
    from vilta.data.sources import find_reader, find_shards
    from vilta.data.sources.patterns import shard_reader
    from vilta.data.text import caption_lines
    from vilta.decoding import decode_image, decode_pixels
    from vilta.tasks.formats.question_files import read_questions

PICTURE = Image.linear_gradient("L").resize((24, 20)).convert("RGB")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
LARGEST = 65_536
"""Bytes of an input."""


def encoded(kind: str) -> bytes:
    """Return the picture as a file."""
    file = io.BytesIO()
    PICTURE.save(file, kind)
    return file.getvalue()


JPEG = encoded("JPEG")


def tar(members: dict[str, bytes]) -> bytes:
    """Return a tar with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def columnar(arrow: bool) -> bytes:
    """Return a table of two pairs as a Parquet or an Arrow file."""
    table = pa.table({"image": [JPEG, JPEG], "caption": [["a dog"], ["a cat"]], "image_id": [1, 2]})
    file = io.BytesIO()
    if arrow:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    else:
        pq.write_table(table, file)
    return file.getvalue()


KARPATHY = {
    "images": [
        {
            "sentids": [0],
            "imgid": 0,
            "sentences": [{"tokens": ["a", "dog"], "raw": "A dog", "imgid": 0, "sentid": 0}],
            "split": "train",
            "filename": "1.jpg",
        }
    ],
    "dataset": "flickr8k",
}
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}],
}
QUESTIONS = [
    b'[{"question": "what", "image": "1.jpg", "answers": [{"answer": "a dog"}]}]',
    b'{"1": {"question": "what", "imageId": "1", "answer": "dog", "types": {"structural": "q"}}}',
    b'{"data": [{"question": "what", "image_id": 1, "answers": ["dog"]}]}',
    b'{"questions": [{"question": "what", "image_id": 1, "question_id": 2}]}',
    b'[["what", "dog", 1]]',
]
REGION = {"region_id": 1, "image_id": 1, "phrase": "a dog", "x": 1, "y": 1, "width": 9, "height": 9}


def read_pairs(path: Path) -> None:
    """Read a source to its end."""
    for _ in find_reader(str(path)).found():
        pass


def read_shard(path: Path) -> None:
    """Read a shard to its end, and count it; a damaged Parquet file may not hold what it says."""
    reader = shard_reader(find_shards(str(path))[0])
    found = sum(1 for _ in reader.items())
    try:
        number = shard_reader(str(path)).count()
    except (OSError, pa.ArrowException):
        number = 0
    assert number == found or reader.skipped or path.suffix == ".parquet"


def beside_picture(path: Path) -> None:
    """Read the folder of a file that names pictures."""
    (path.parent / "1.jpg").write_bytes(JPEG)
    read_pairs(path.parent)


def decode_both(path: Path) -> None:
    """Decode an image with both decoders; what one refuses the other refuses too."""
    data = path.read_bytes()
    try:
        image = decode_image(data)
    except ValueError:
        with contextlib.suppress(ValueError):
            decode_pixels(data)
            raise AssertionError("only one decoder refuses it") from None
        raise
    assert decode_pixels(data).shape == (image.height, image.width, 3)


Target = tuple[str, Callable[[Path], object], list[bytes]]
TARGETS: list[Target] = [
    (
        "image",
        decode_both,
        [encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")],
    ),
    ("0.tar", read_pairs, [tar({"1.jpg": JPEG, "1.txt": b"a dog", "2.json": b'{"caption": "x"}'})]),
    ("1.tar", read_shard, [tar({"a/1.jpg": JPEG, "a/1.txt": b"a dog"})]),
    (
        "karpathy.tar",
        read_pairs,
        [tar({"dataset_flickr8k.json": json.dumps(KARPATHY).encode(), "1.jpg": JPEG})],
    ),
    ("0.parquet", read_shard, [columnar(arrow=False)]),
    ("0.arrow", read_shard, [columnar(arrow=True)]),
    ("metadata.csv", beside_picture, [b"file_name,caption\n1.jpg,a dog\n"]),
    ("metadata.jsonl", beside_picture, [b'{"file_name": "1.jpg", "captions": ["a dog"]}\n']),
    ("captions.csv", beside_picture, [b'image,caption\n1.jpg,"a dog, brown"\n1.jpg,a cat\n']),
    ("results.csv", beside_picture, [b"image_name| comment_number| comment\n1.jpg| 0| a dog\n"]),
    ("open_clip.tsv", beside_picture, [b"filepath\ttitle\n1.jpg\ta dog\n"]),
    ("lines.jsonl", beside_picture, [b'{"image": "1.jpg", "caption": "a dog", "split": "a"}\n']),
    ("list.json", read_pairs, [b'[{"image": "1.jpg", "caption": ["a dog"]}]', b'{"1.jpg": "x"}']),
    ("1.txt", beside_picture, [b"a dog\na brown dog\n"]),
    ("dataset_flickr8k.json", beside_picture, [json.dumps(KARPATHY).encode()]),
    ("captions_train2014.json", beside_picture, [json.dumps(COCO).encode()]),
    ("results.token", beside_picture, [b"1.jpg#0\tA dog .\n1.jpg#1\tA cat .\n"]),
    (
        "region_descriptions.json",
        beside_picture,
        [json.dumps([{"id": 1, "regions": [REGION]}]).encode()],
    ),
    ("mixture.yaml", lambda path: read_mixture(str(path)), [b"data/coco: 1\ndata/vg: 0.5\n"]),
    (
        "captions.txt",
        lambda path: caption_lines(str(path)),
        [b"a dog\na cat\n", b"image,caption\n1.jpg,a dog\n"],
    ),
    ("questions.json", lambda path: read_questions(str(path)), QUESTIONS),
    ("answers.csv", lambda path: read_questions(str(path)), [b"image,question,answer\n1,a,b\n"]),
    ("captions.txt.gz", lambda path: caption_lines(str(path)), [b"\x1f\x8b\x08\0\0\0\0\0\0\x03"]),
]
inputs: Counter[str] = Counter()
refused: Counter[str] = Counter()


def try_input(data: bytes) -> None:
    """Try one input: its first byte names the kind of file, the rest is the file."""
    name, read, _ = TARGETS[(data[0] if data else 0) % len(TARGETS)]
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(data[1:])
    inputs[name] += 1
    try:
        read(path)
    except ValueError as error:
        refused[name] += 1
        assert "\n" not in str(error), f"{name}: more than one line: {error}"


def seeds() -> list[bytes]:
    """Return the valid files as inputs."""
    return [bytes([n]) + data for n, (_, _, files) in enumerate(TARGETS) for data in files]


def damaged(data: bytes, random: Random) -> bytes:
    """Return an input with some bytes changed, cut out, repeated, or cut off."""
    content = bytearray(data[1:])
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(content) + 1)
        length = random.choice((1, 1, 2, 4, 16, 256))
        kind = random.randrange(5)
        if kind == 0:
            content[at : at + length] = random.randbytes(length)
        elif kind == 1:
            del content[at : at + length]
        elif kind == 2:
            content[at:at] = content[at : at + length]
        elif kind == 3:
            content[at:at] = random.choice(
                (b'"', b"{", b"[", b"\0", b"\xff", b"\n", b"-1", b"1e99")
            )
        elif random.random() < 0.2:
            del content[at:]
    return data[:1] + bytes(content[:LARGEST])


def report(began: float) -> None:
    """Print how many inputs were tried."""
    total, minutes = sum(inputs.values()), (time.monotonic() - began) / 60
    print(
        f"\n{total:,} inputs in {minutes:.1f} minutes, {sum(refused.values()):,} refused in a line"
    )
    print(", ".join(f"{name} {count:,}" for name, count in inputs.most_common()), flush=True)


def main() -> None:
    """Fuzz for the time that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="do not use atheris")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    if atheris and not arguments.random:
        corpus = FOLDER / "corpus"
        corpus.mkdir()
        for number, data in enumerate(seeds()):
            (corpus / str(number)).write_bytes(data)
        flags = [f"-max_total_time={round(arguments.minutes * 60)}", f"-max_len={LARGEST}"]
        flags += [f"-seed={arguments.seed}", "-rss_limit_mb=4096", "-timeout=20"]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], try_input)
        atheris.Fuzz()
    random, files = Random(arguments.seed), seeds()
    while time.monotonic() - began < 60 * arguments.minutes:
        data = damaged(random.choice(files), random)
        try:
            try_input(data)
        except Exception:
            Path("crash").write_bytes(data)
            print(f"wrote crash, an input of {TARGETS[data[0] % len(TARGETS)][0]}")
            raise
    report(began)


if __name__ == "__main__":
    main()
