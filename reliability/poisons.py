"""Files that starve a machine: each must be read or refused within bounded time and memory.

    python reliability/poisons.py      # about a minute

Every poison is decoded in a process of its own, whose processor time and
largest memory are measured.
"""

from __future__ import annotations

import gzip
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from results import write_result

from vilta.data.resizing import shrink
from vilta.data.text import caption_lines
from vilta.data.transforms import evaluation_tensor
from vilta.decoding import decode_image, decode_pixels

SECONDS, MEGABYTES = 30.0, 1500
"""Bounds on processor time and memory, with 80 million pixels allowed and two decoders tried. What
costs most took 5 s on an idle machine, and 18 on a slower one beside other work."""

LONGEST = 120
"""Seconds after which one that neither computes nor ends is ended."""


def encoded(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def scans(count: int, size: tuple[int, int]) -> bytes:
    """Return a progressive JPEG with many further scans."""
    data = encoded(Image.linear_gradient("L").resize(size), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * count + data[-2:]


def png(width: int, height: int, pixels: bytes, *others: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of any content, with ``others`` (kind and data) before the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *others, (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def promise(kind: str, width: int, height: int) -> bytes:
    """Return an image of a few bytes whose header promises any number of pixels."""
    if kind == "PNG":
        return png(width, height, b"\0")
    small = encoded(Image.new("RGB", (16, 16)), kind)
    order, size = {"JPEG": (">HH", (height, width)), "BMP": ("<II", (width, height))}.get(
        kind, ("<HH", (width, height))
    )
    place = {"JPEG": small.find(b"\xff\xc0") + 5, "BMP": 18, "GIF": 6, "WEBP": 26}[kind]
    told = struct.pack(order, *size)
    return small[:place] + told + small[place + len(told) :]


def frames(kind: str, count: int) -> bytes:
    """Return a moving picture."""
    rows = [Image.new("RGB", (64, 64), (i % 256, i // 256, 0)) for i in range(count)]
    return encoded(rows[0], kind, save_all=True, append_images=rows[1:])


def endless_tiff() -> bytes:
    """Return a TIFF whose directory names itself as the next one."""
    data = encoded(Image.new("RGB", (8, 8)), "TIFF")
    first = struct.unpack("<I", data[4:8])[0]
    after = first + 2 + 12 * struct.unpack("<H", data[first : first + 2])[0]
    return data[:after] + struct.pack("<I", first) + data[after + 4 :]


def poisons() -> dict[str, Callable[[], bytes]]:
    """Return images by what is wrong with them; made one by one, as some are large."""
    square = 8_900
    found: dict[str, Callable[[], bytes]] = {
        f"{w} x {h}, 1 bit": lambda w=w, h=h: encoded(Image.new("1", (w, h)), "PNG")
        for w, h in ((8, 500_000), (500_000, 8), (9_999_999, 8), (8, 800), (800, 8), (790_000, 100))
    }
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        found[f"79 megapixels, {mode} PNG"] = lambda mode=mode: encoded(
            Image.new(mode, (square, square)), "PNG", compress_level=1
        )
    for kind in ("JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        side = 8_000 if kind != "WEBP" else 4_000
        found[f"{side} x {side} {kind}"] = lambda kind=kind, side=side: encoded(
            Image.new("RGB", (side, side)), kind
        )
    for count in (50, 100, 1_000, 10_000):
        found[f"{count} further scans"] = lambda count=count: scans(count, (64, 48))
    found["80 further scans over 9 megapixels"] = lambda: scans(80, (3_000, 3_000))
    for width, height in ((10_000, 10_000), (2_000_000, 2_000_000), (8_900, 8_900), (0, 40)):
        found[f"promises {width} x {height}"] = lambda w=width, h=height: promise("PNG", w, h)
    for kind, side in (("JPEG", 65_500), ("BMP", 100_000), ("GIF", 65_535), ("WEBP", 16_383)):
        found[f"a {kind} that promises {side} x {side}"] = lambda kind=kind, side=side: promise(
            kind, side, side
        )
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = encoded(Image.linear_gradient("L").resize((900, 700)).convert("RGB"), kind)
        found[f"half a {kind}"] = lambda whole=whole: whole[: len(whole) // 2]
    for kind, count in (("GIF", 3_000), ("PNG", 3_000), ("WEBP", 500), ("TIFF", 3_000)):
        found[f"{count} frames of {kind}"] = lambda kind=kind, count=count: frames(kind, count)
    found["a TIFF without end"] = endless_tiff
    found["300 MB of pixels for 8 x 8"] = lambda: png(8, 8, bytes(300 * 2**20))
    text = b"key\0\0" + zlib.compress(bytes(300 * 2**20), 9)
    for name in (b"zTXt", b"iCCP"):
        found[f"300 MB of {name.decode()}"] = lambda name=name: png(
            8, 8, bytes(8 * 25), (name, text)
        )
    found["9 megapixels written as numbers"] = lambda: b"P3 3000 3000 255 " + b"7 " * 27_000_000
    found["a program in PostScript"] = lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n"
    )
    found["1 MB of markers"] = lambda: b"\xff\xd8" + b"\xff\xda" * 500_000
    return found


def decode(data: bytes) -> str:
    """Do with an image what training, evaluation and packing do."""
    try:
        decode_pixels(data)
        image = decode_image(data)
        evaluation_tensor(image, 384)
        shrink(image, 224)
    except ValueError as error:
        return f"refused: {error}"
    return "read"


def read_zeros(path: Path) -> str:
    """Read a packed text."""
    try:
        return f"read, {len(caption_lines(str(path)))} captions"
    except ValueError as error:
        return f"refused: {str(error).rpartition('/')[2]}"


def measured(work: Callable[[], str]) -> dict[str, Any]:
    """Return what came out of ``work`` in a process of its own, with its seconds and memory."""
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (round(3 * SECONDS), round(3 * SECONDS)))
        signal.alarm(LONGEST)  # for one that waits instead
        os.write(begin, work().encode()[:900])
        os._exit(0)
    os.close(begin)
    _, status, usage = os.wait4(child, 0)
    with os.fdopen(end, "rb") as file:
        text = file.read().decode(errors="replace") or f"died with status {status}"
    seconds = round(usage.ru_utime + usage.ru_stime, 2)
    return {"outcome": text, "seconds": seconds, "mb": usage.ru_maxrss // 1024}


def main() -> None:
    """Measure all, and end with an error where a bound is broken."""
    began = time.time()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    results = {}
    for name, make in poisons().items():
        # Made by the child: this process stays small, and so does what its children begin with.
        path = Path(tempfile.gettempdir(), f"poison-{os.getpid()}")
        made = measured(lambda: str(path.write_bytes(make())))  # noqa: B023
        assert "died" not in made["outcome"], made
        for _ in range(2):  # what was too slow once more: the machine may have been busy
            results[name] = measured(lambda: decode(path.read_bytes()))  # noqa: B023
            if results[name]["seconds"] <= SECONDS:
                break
        path.unlink()
        print(name, results[name], file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        zeros = Path(folder, "zeros.txt.gz")
        with gzip.open(zeros, "wb", compresslevel=1) as file:
            for _ in range(400):
                file.write(bytes(2**20))
        results["400 MB of zeros, packed text"] = measured(lambda: read_zeros(zeros))
    broken = [
        name
        for name, r in results.items()
        if r["seconds"] > SECONDS or r["mb"] > MEGABYTES or "died" in r["outcome"]
    ]
    worst = {key: max(r[key] for r in results.values()) for key in ("seconds", "mb")}
    figures = {"poisons": len(results), "mb_of_an_idle_process": own, "worst": worst}
    write_result("poisons", began, figures | {"broken": broken, "each": results})
    if broken:
        raise SystemExit(f"bounds broken by {', '.join(broken)}")


if __name__ == "__main__":
    main()
