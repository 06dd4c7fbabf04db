"""What caching and a first stage save when image-text retrieval is evaluated.

    python -m benchmarks.speed.retrieval runs/demo "scenes:500?seed=4&size=96"

Three ways to rank all texts for all images and back with one model, in one run:

- `pairs again`: every pair is scored; each image is encoded again for every 64 texts, and the texts
  with it, as users of METER report of its evaluation. Measured on the first images and scaled up.
- `pairs cached` (`vilta evaluate RUN --task retrieval --full`): every pair from cached states.
- `two stages` (the default): contrast over everything, matching over the top 32 of each.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vilta.config import DataConfig
from vilta.data.loading import evaluation_loader
from vilta.evaluation.retrieval import (
    candidate_pairs,
    encode_gallery,
    encode_images,
    match_scores,
    retrieval_metrics,
)
from vilta.model import ViltaForImageTextRetrieval
from vilta.model.fusion import Pairs
from vilta.model.language_model import load_tokenizer
from vilta.tasks.retrieval import ImageTextRetrieval, RetrievalSettings
from vilta.training.folder import model_folder
from vilta.training.precision import autocast, choose_dtype, keep_for_next_step

OUT = Path(__file__).parents[1] / "results" / "retrieval.json"
TEXTS_PER_CALL, MEASURED_IMAGES, TOP_K = 64, 20, 32


@torch.no_grad()
def main(run: str, data: str) -> None:
    """Measure, print and write the JSON."""
    keep_for_next_step()
    folder = model_folder(run)
    model = ViltaForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(str(folder))
    items = ImageTextRetrieval.read(data, "", RetrievalSettings())
    task = ImageTextRetrieval(model, tokenizer, RetrievalSettings(), items).eval()
    size = model.config.image_size
    settings = DataConfig(image_size=size, max_text_tokens=model.config.max_text_tokens)
    dataset = task.dataset(items, settings, 0, train=False)
    loader = evaluation_loader(dataset, task.collator(settings.max_text_tokens), batch_size=128)
    pixels = [batch.pixel_values for batch in loader]  # reading is not what is compared
    captions = dataset.table["captions"]
    dtype, precision = choose_dtype("auto", torch.device("cpu"), model)
    with autocast(torch.device("cpu"), dtype):
        encode_images(model, pixels[:1])  # warm up
        gallery, encoding = timed(
            lambda: encode_gallery(model, tokenizer, encode_images(model, pixels), captions)
        )
        wanted = candidate_pairs(gallery.similarity, TOP_K)
        top, two_stages = timed(lambda: match_scores(model, gallery, wanted))
        every = torch.ones_like(wanted)
        whole, cached = timed(lambda: match_scores(model, gallery, every))
        images = torch.cat(pixels)[:MEASURED_IMAGES]
        _, some = timed(lambda: pairs_again(model, tokenizer, images, captions))
    again = some * len(dataset) / len(images)
    seconds = {
        "pairs again": again,
        "pairs cached": encoding + cached,
        "two stages": encoding + two_stages,
    }
    ranked = {"pairs cached": whole, "two stages": top}
    result = {
        "run": run,
        "data": data,
        "images": len(dataset),
        "texts": int(gallery.similarity.shape[1]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": f"{torch.get_num_threads()} CPU threads, {platform.machine()}, {precision}",
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "times faster than pairs again": {
            name: round(again / value, 1) for name, value in seconds.items()
        },
        "measured_images": len(images),
        "pairs scored": {"all": every.numel(), "two stages": int(wanted.sum())},
        "metrics": {
            name: retrieval_metrics(gallery.similarity, scores, gallery.relevant)["combined"]
            for name, scores in ranked.items()
        },
    }
    OUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def pairs_again(model: Any, tokenizer: Any, images: torch.Tensor, captions: Any) -> None:
    """Score every text for each image, 64 at a time, encoding both sides each time."""
    texts = [text for group in captions for text in group]
    chunks = [
        tokenizer(
            texts[i : i + TEXTS_PER_CALL],
            padding=True,
            truncation=True,
            max_length=model.config.max_text_tokens,
            return_tensors="pt",
        )
        for i in range(0, len(texts), TEXTS_PER_CALL)
    ]
    for image in images:
        for chunk in chunks:
            mask = chunk["attention_mask"]
            image_states = model.vilta.encode_image(image[None])
            text_states = model.vilta.encode_text(chunk["input_ids"], mask)
            rows = torch.arange(len(mask))
            model.match(text_states, mask, image_states, Pairs(rows, torch.zeros_like(rows)))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns and the seconds it took."""
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
