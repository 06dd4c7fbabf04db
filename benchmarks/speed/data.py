"""How fast pairs are read and packed, with how much memory, and how soon a large table starts.

    python -m benchmarks.speed.data

Reading is one thread on 340 x 256 JPEG to 224 pixels, against the way of METER: PIL, RGBA, bicubic
resize of the short side, centre, RGB, normalised floats in the worker. Ratios are of one run:
machines are noisy. Results go to `benchmarks/results/data.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vilta.data.augmentation import training_short_side, training_tensor
from vilta.data.order import permutation
from vilta.decoding import decode_pixels

RESULTS = Path(__file__).parents[1] / "results" / "data.json"
SIDE = 224
MEAN, STD = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])


def generators(count: int) -> list[np.random.Generator]:
    """Return generators with seeds of their own."""
    return [np.random.default_rng(seed) for seed in range(count)]


def photo(rng: np.random.Generator, width: int = 340, height: int = 256) -> Image.Image:
    """Draw pixels with the statistics of a photo: noise at all scales."""
    image = np.zeros((height, width, 3))
    for scale in (2, 4, 8, 16, 32, 64):
        small = rng.normal(size=(height // scale + 1, width // scale + 1, 3)).clip(-2, 2)
        grey = Image.fromarray(((small + 2) * 63).astype(np.uint8))
        image += np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC)) * scale**0.5
    image = 255 * (image - image.min()) / np.ptp(image)
    return Image.fromarray(image.astype(np.uint8))


def encoded(pixels: np.ndarray) -> bytes:
    """Return pixels as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=87)
    return file.getvalue()


def photos(count: int) -> list[bytes]:
    """Return JPEG files of 340 x 256 pixels."""
    return [encoded(np.asarray(photo(rng))) for rng in generators(count)]


def like_meter(data: bytes) -> torch.Tensor:
    """Read an image as METER pre-trains: resized with its alpha channel, normalised as floats."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    scale = SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    image = image.crop((left, top, left + SIDE, top + SIDE)).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return (pixels - MEAN[:, None, None]) / STD[:, None, None]


def reader(augmentation: str) -> Callable[[bytes], torch.Tensor]:
    """Return the way of vilta's loader; the device subtracts the mean."""
    short_side = training_short_side(SIDE, augmentation, 0.5)
    random = np.random.default_rng(0)

    def read(data: bytes) -> torch.Tensor:
        return training_tensor(decode_pixels(data, short_side), SIDE, augmentation, 0.5, random)

    return read


def rate(read: Callable[[bytes], torch.Tensor], files: list[bytes], seconds: float) -> float:
    """Return images a second of one thread."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        read(files[count % len(files)])
        count += 1
    return count / (time.perf_counter() - began)


def write_tar(path: Path, pictures: list[bytes], pairs: int) -> None:
    """Write a WebDataset tar; each picture differs from the others by some bytes at its end."""
    with tarfile.open(path, "w") as archive:
        for i in range(pairs):
            data = pictures[i % len(pictures)] + b"%010d" % i  # what follows a JPEG is not read
            for name, content in ((f"{i}.jpg", data), (f"{i}.txt", b"a pair %d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def measured(*command: str) -> tuple[float, float, str]:
    """Run Python in a process of its own; return seconds, peak memory in GiB, its last line.

    The peak counts mapped files, whose pages the system takes back when it needs them.
    """
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)\n"
    )
    began = time.perf_counter()
    child = [sys.executable, "-c", code, sys.executable, *command]
    output = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout
    *_, last, _, peak = output.rstrip("\n").split("\n")
    return time.perf_counter() - began, float(peak), last


READ = """
import re, sys
from vilta.config import DataConfig
from vilta.data.sources import load_pairs
from vilta.data.samples import PairDataset, fingerprint
dataset = PairDataset(load_pairs(sys.argv[1]), DataConfig(image_size=64), 0, True, "benchmark")
fingerprint(dataset.table)
for row in range(0, len(dataset), int(sys.argv[2])):
    dataset[0, row]
status = open("/proc/self/status").read()
print(int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 2**20)  # without mapped files
"""


def memory(pairs: int) -> dict[str, float]:
    """Pack a tar of so many small pairs, then read all of them: peak memory and rates."""
    with tempfile.TemporaryDirectory() as folder:
        small = [encoded(np.asarray(photo(rng).resize((128, 96)))) for rng in generators(64)]
        write_tar(Path(folder, "in.tar"), small, pairs)
        pack = ("-m", "vilta", "pack", f"{folder}/in.tar", "--out", f"{folder}/out")
        packing, packing_peak, _ = measured(*pack)
        reading, reading_peak, own = measured("-c", READ, f"{folder}/out", "1")
    return {
        "pairs": pairs,
        "packing_peak_GiB": round(packing_peak, 2),
        "packed_per_s": round(pairs / packing),
        "reading_peak_GiB": round(reading_peak, 2),
        "reading_without_mapped_files_GiB": round(float(own), 2),
        "read_per_s": round(pairs / reading),
    }


def packing(pairs: int) -> dict[str, float]:
    """Pack photos of 640 x 480 pixels on all cores, as they are and shrunk."""
    result: dict[str, float] = {"pairs": pairs, "cores": os.cpu_count() or 1}
    with tempfile.TemporaryDirectory() as folder:
        large = [encoded(np.asarray(photo(rng, 640, 480))) for rng in generators(64)]
        write_tar(Path(folder, "in.tar"), large, pairs)
        for name, side in (("as_it_is", "0"), ("short_side_384", "384")):
            out = Path(folder, name)
            # Shrunk, the pictures are the same again, and would be merged.
            command = ("-m", "vilta", "pack", f"{folder}/in.tar", "--no-merge-duplicates")
            seconds, *_ = measured(*command, "--short-side", side, "--out", str(out))
            size = sum(file.stat().st_size for file in out.glob("*.arrow"))
            result |= {
                f"{name}_per_s": round(pairs / seconds),
                f"{name}_bytes_per_pair": round(size / pairs),
            }
    return result


def startup(rows: int) -> dict[str, float]:
    """Time from nothing to the first sample of a packed table of so many rows.

    Its shards are links to one file of 100,000 rows, which is as good as many for this purpose.
    """
    with tempfile.TemporaryDirectory() as folder:
        tiny = encoded(np.zeros((16, 16, 3), np.uint8))
        write_tar(Path(folder, "in.tar"), [tiny], 100_000)
        command = ("-m", "vilta", "pack", f"{folder}/in.tar", "--shard-rows", "100000")
        measured(*command, "--out", f"{folder}/out")
        state = json.loads(Path(folder, "out", "state.json").read_text())
        shard = Path(folder, "out", state["_data_files"][0]["filename"])
        names = [f"data-{i:05}.arrow" for i in range(rows // 100_000)]
        for name in names:
            if not (target := shard.with_name(name)).exists():
                os.link(shard, target)
        state["_data_files"] = [{"filename": name} for name in names]
        Path(folder, "out", "state.json").write_text(json.dumps(state))
        seconds = {}
        for name, step in (("imports", None), ("first_sample", rows), ("thousand", rows // 1000)):
            code = READ if step else READ.split("dataset =")[0] + "print(0)"
            seconds[name], _, own = measured("-c", code, f"{folder}/out", str(step))
        began = time.perf_counter()
        permutation(0, rows, 0)
        order = time.perf_counter() - began
    return {
        "rows": rows,
        "imports_s": round(seconds["imports"], 1),
        "to_first_sample_s": round(seconds["first_sample"], 1),
        "to_thousand_far_apart_s": round(seconds["thousand"], 1),
        "order_of_an_epoch_s": round(order, 2),
        "memory_without_mapped_files_GiB": round(float(own), 2),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="small pairs to pack and read")
    parser.add_argument("--photos", type=int, default=10_000, help="photos to pack")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the large table")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each way of reading")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = photos(64)
    ways = {"meter": like_meter} | {
        name: reader(name) for name in ("none", "crop", "crop-flip", "crop-randaugment")
    }
    rates = {name: rate(read, files, arguments.seconds) for name, read in ways.items()}
    result = {
        "images_per_s": {name: round(value) for name, value in rates.items()},
        "times_meter": {name: round(rates[name] / rates["meter"], 2) for name in rates},
        "memory": memory(arguments.pairs),
        "packing": packing(arguments.photos),
        "startup": startup(arguments.rows),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"wrote {RESULTS.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
