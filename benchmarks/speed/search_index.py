"""How fast `vilta search` indexes a folder, against the limits of decoding and of the model.

    python -m benchmarks.speed.search_index PHOTOS runs/demo [RUN ...]

For each run, in turns and on the same photos, with the same decoding threads:

- `decode`: read, decode and resize every photo to the size that the model sees, and nothing else;
- `embed`: the model alone, on the pixels in batches of the index;
- `index`: a new index, as `vilta search RUN PHOTOS` makes it: both, hashes, SQLite and the disk.

Times are the process's own (CPU seconds of all its threads), for other programs may take turns on
the machine: photos a second are those of one core that is free. `unexplained` is the part of the
time of `index` that is neither `decode` nor `embed`. Median of the rounds. Results go to
`benchmarks/results/search_index.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from benchmarks.flickr8k.encoders import register
from torch import Tensor

from vilta import Matcher
from vilta.apps.image_input import DECODERS, open_image
from vilta.apps.photo_index import BATCH
from vilta.apps.photo_search import PhotoSearch
from vilta.data.transforms import evaluation_tensor
from vilta.training.precision import keep_for_next_step

RESULTS = Path(__file__).parents[1] / "results" / "search_index.json"
STEPS = ("decode", "embed", "index")


def decode_all(photos: list[Path], size: int) -> Tensor:
    """Return the pixels of all photos, decoded in as many threads as the index takes."""

    def pixels(path: Path) -> Tensor:
        return evaluation_tensor(open_image(path.read_bytes(), size), size)

    with ThreadPoolExecutor(DECODERS) as pool:
        return torch.stack(list(pool.map(pixels, photos)))


def seconds_of(work: Callable[[], Any]) -> float:
    """Return the CPU seconds that a piece of work takes, in all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(run: str, folder: Path, photos: list[Path], rounds: int) -> dict[str, Any]:
    """Return photos a second of each step, and what of the index's time is unexplained."""
    matcher = Matcher(run, device="cpu")
    batches = decode_all(photos, matcher.image_size).split(BATCH)

    def index() -> None:
        with tempfile.TemporaryDirectory() as place:
            search = PhotoSearch(matcher, folder, Path(place))
            done = search.update()
            search.index.close()
            assert done.new == len(photos), done

    works = {
        "decode": lambda: decode_all(photos, matcher.image_size),
        "embed": lambda: [matcher.embed_pixels(batch) for batch in batches],
        "index": index,
    }
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    for name, work in [*works.items()] * rounds:
        times[name].append(seconds_of(work))
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    limit = middle["decode"] + middle["embed"]
    return {
        "parameters": sum(p.numel() for p in matcher.model.vilta.vision.parameters()),
        "image_size": matcher.image_size,
        "photos_per_cpu_second": {n: round(len(photos) / t, 1) for n, t in middle.items()},
        "cpu_seconds_of_rounds": {
            name: [round(t, 2) for t in taken] for name, taken in times.items()
        },
        "index_of_decode_limit": round(middle["decode"] / middle["index"], 3),
        "unexplained": round(1 - limit / middle["index"], 3),
    }


def main() -> None:
    """Measure every run, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    register()
    keep_for_next_step()
    photos = sorted(arguments.folder.glob("*.jpg"))
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    results = {
        "device": f"{torch.get_num_threads()} torch threads, {platform.machine()}",
        "photos": len(photos),
        "decoding_threads": DECODERS,
        "runs": {
            Path(run).name: measure(run, arguments.folder, photos, arguments.rounds)
            for run in arguments.runs
        },
    }
    text = json.dumps(results, indent=2)
    print(text)
    RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
