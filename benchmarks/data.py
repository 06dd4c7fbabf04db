"""How fast images are read for training, and how much memory packing takes.

    python -m benchmarks.data --pairs 100000

Reading is one thread on 340 x 256 JPEG to 224 pixels, against the way of METER: PIL, RGBA, bicubic
resize of the short side, centre, RGB, normalised floats in the worker. Ratios are of one run:
machines are noisy. Results go to `benchmarks/results/data.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
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
from vilta.data.transforms import decode_image

RESULTS = Path(__file__).parent / "results" / "data.json"
SIDE = 224
MEAN, STD = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])


def photos(count: int) -> list[bytes]:
    """Return JPEG files of 340 x 256 pixels with the statistics of photos: noise at all scales."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        image = np.zeros((256, 340, 3))
        for scale in (2, 4, 8, 16, 32, 64):
            small = rng.normal(size=(256 // scale + 1, 340 // scale + 1, 3)).clip(-2, 2)
            grey = Image.fromarray(((small + 2) * 63).astype(np.uint8))
            image += np.asarray(grey.resize((340, 256), Image.Resampling.BICUBIC)) * scale**0.5
        image = 255 * (image - image.min()) / np.ptp(image)
        file = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=87)
        files.append(file.getvalue())
    return files


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
        image = decode_image(data, short_side)
        return training_tensor(image, SIDE, augmentation, 0.5, random)

    return read


def rate(read: Callable[[bytes], torch.Tensor], files: list[bytes], seconds: float) -> float:
    """Return images a second of one thread."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        read(files[count % len(files)])
        count += 1
    return count / (time.perf_counter() - began)


def packing(pairs: int) -> dict[str, float]:
    """Pack a tar of so many pairs in a process of its own; its peak memory and its rate."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        with tarfile.open(f"{folder}/in.tar", "w") as archive:
            for i in range(pairs):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).resize((128, 96)).save(file, "JPEG", quality=80)
                for name, data in ((f"{i}.jpg", file.getvalue()), (f"{i}.txt", b"a pair %d" % i)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        began = time.perf_counter()
        command = [sys.executable, "-m", "vilta", "pack", f"{folder}/in.tar"]
        subprocess.run([*command, "--out", f"{folder}/out"], check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {
        "pairs": pairs,
        "peak_memory_GiB": round(peak, 2),
        "pairs_per_s": round(pairs / seconds),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000, help="pairs to pack")
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each way of reading")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = photos(64)
    ways = {"meter": like_meter, "none": reader("none"), "crop": reader("crop")}
    rates = {name: rate(read, files, arguments.seconds) for name, read in ways.items()}
    result = {
        "images_per_s": {name: round(value) for name, value in rates.items()},
        "times_meter": {name: round(rates[name] / rates["meter"], 2) for name in rates},
        "packing": packing(arguments.pairs),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"wrote {RESULTS.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
