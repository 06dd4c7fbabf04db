"""Small trainings over frozen encoders: contrast alone, or matching beside it.

Each photo and each caption is encoded once, so training contrast takes seconds. Used by
`benchmarks.flickr8k.cleaning`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor

from vilta.apps.run_calibration import calibrate
from vilta.config import DataConfig, OptimizationConfig
from vilta.data.collate import PairCollator
from vilta.data.examples import PairItems
from vilta.data.samples import PairDataset
from vilta.data.sources import load_pairs
from vilta.finished_run import load_task
from vilta.model import ViltaForPreTraining
from vilta.model.heads import ContrastiveHead, pool, unit_vectors
from vilta.model.language_model import load_tokenizer
from vilta.model.pixel_statistics import pixel_statistics
from vilta.objectives.contrastive import compare, contrastive_loss, positive_pairs
from vilta.seeds import generator_for
from vilta.tasks.retrieval import ImageTextRetrieval, RetrievalSettings
from vilta.training.optimization import build_optimizer, build_schedule, clip_gradient
from vilta.types import Sample

PHOTOS, CAPTIONS = 3_500, 2
"""Photos of train that are used, and captions of each photo, in val too."""
HELD_OUT = 500
"""Noisy training photos that calibrate the cleaning model and train none."""
SIZE = 128
"""Side of the photos in pixels."""
CONTRAST = OptimizationConfig(steps=320, batch_size=256, lr=1e-3, weight_decay=0.05)
MATCHING = OptimizationConfig(steps=64, batch_size=64, lr=3e-4, weight_decay=0.05)
SETTINGS = RetrievalSettings(hardness=0.0)
"""Negatives of matching are drawn evenly, as the wrong captions are."""


class Encoded(NamedTuple):
    """The photos and captions of a split after the frozen encoders."""

    images: Tensor
    """``[N, C]``, normed and pooled."""
    texts: Tensor
    """``[T, Ct]``, pooled."""
    owner: Tensor
    """``[T]``, the photo of each caption."""
    states: Tensor
    """``[N, P, C]`` before the norm, float16."""


def read(folder: Path, split: str) -> datasets.Dataset:
    """Return the first photos of a split with the first of their captions."""
    table = load_pairs(str(folder / split))
    table = table.select(range(min(PHOTOS, len(table))))
    captions = [group[:CAPTIONS] for group in table["captions"]]
    return with_captions(table, captions)


def with_captions(table: datasets.Dataset, captions: list[list[str]]) -> datasets.Dataset:
    """Return the table with other captions."""
    changed = table.remove_columns("captions").add_column("captions", captions)
    return changed.select_columns(table.column_names).cast(table.features)


def new_model(folder: Path, seed: int) -> ViltaForPreTraining:
    """Return the model that everything of a seed starts from."""
    torch.manual_seed(seed)
    mean, std = pixel_statistics(str(folder / "image-encoder"))
    return ViltaForPreTraining.from_encoders(
        str(folder / "image-encoder"),
        str(folder / "text" / "model"),
        fusion="cross-attention",
        fusion_layers=1,
        hidden_size=384,
        num_attention_heads=6,
        contrastive_width=384,
        pooling="mean",
        dropout=0.0,
        image_size=SIZE,
        image_mean=list(mean),
        image_std=list(std),
        max_text_tokens=32,
    )


@torch.no_grad()
def encoded(folder: Path, split: str, out: Path) -> Encoded:
    """Return a split after the encoders, stored under ``out``."""
    path, table = out / f"{split}.pt", read(folder, split)
    if path.exists():
        return Encoded(**torch.load(path, mmap=True, weights_only=True))
    model = new_model(folder, 0).eval()
    norm, model.vilta.image_norm = model.vilta.image_norm, torch.nn.Identity()
    tokenizer = load_tokenizer(str(folder / "text" / "model"))
    dataset = PairDataset(table, DataConfig(image_size=SIZE), 0, False, split)
    images, states, texts = [], [], []
    for start in range(0, len(table), 64):
        pixels = [dataset[0, i].pixels for i in range(start, min(start + 64, len(table)))]
        states.append(model.vilta.encode_image(torch.stack(pixels)).half())
        images.append(pool(norm(states[-1].float()), None, "mean"))
    groups = table["captions"][:]
    captions = [caption for group in groups for caption in group]
    for start in range(0, len(captions), 128):
        tokens = tokenizer(
            captions[start : start + 128],
            padding=True,
            truncation=True,
            max_length=model.config.max_text_tokens,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        texts.append(pool(model.vilta.encode_text(tokens["input_ids"], mask), mask.bool(), "mean"))
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group])
    found = Encoded(torch.cat(images), torch.cat(texts), owner, torch.cat(states))
    out.mkdir(parents=True, exist_ok=True)
    torch.save(found._asdict(), path)
    return found


def train_contrast(
    head: ContrastiveHead, data: Encoded, texts_of: dict[int, list[int]], seed: int
) -> None:
    """Train a contrastive head on photos and their captions (rows of ``data.texts``)."""
    photos = np.array(sorted(texts_of))
    steps, size = CONTRAST.steps, int(CONTRAST.batch_size)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=CONTRAST.lr, weight_decay=CONTRAST.weight_decay
    )
    schedule = build_schedule(optimizer, CONTRAST)
    epochs = 1 + steps * size // len(photos)
    order = np.concatenate([generator_for(seed, e).permutation(photos) for e in range(epochs)])
    random = generator_for(seed, "captions")
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        texts = torch.tensor([int(random.choice(texts_of[int(row)])) for row in rows])
        image = unit_vectors(head.image, data.images[rows])
        text = unit_vectors(head.text, data.texts[texts])
        similarity = compare(image, text, image, text, head.scale())
        loss = contrastive_loss(similarity, positive_pairs(torch.from_numpy(rows), texts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        head.clamp_scale()


def train_cleaner(
    folder: Path,
    head: ContrastiveHead,
    pairs: datasets.Dataset,
    data: Encoded,
    out: Path,
    seed: int,
) -> None:
    """Train matching beside a trained contrast, calibrate it on the last photos, and save it.

    The first ``len(pairs) - HELD_OUT`` rows of ``pairs`` and ``data`` train it.
    """
    new_model(folder, seed).save_pretrained(out)
    load_tokenizer(str(folder / "text" / "model")).save_pretrained(out)
    task = load_task(ImageTextRetrieval, str(out), SETTINGS, PairItems(pairs, "noisy pairs"))
    model: Any = task.model
    model.itc_head.load_state_dict(head.state_dict())
    # Its images are rows of photos [B, 1, 1, 1] in place of pixels.
    model.vilta.encode_image = lambda rows: model.vilta.image_norm(
        data.states[rows.flatten()].float()
    )
    for frozen in (model.vilta.vision, model.vilta.text, model.vilta.image_norm, model.itc_head):
        frozen.requires_grad_(False)
    optimizer = build_optimizer(task, MATCHING)
    schedule = build_schedule(optimizer, MATCHING)
    collate = PairCollator(task.tokenizer, model.config.max_text_tokens, None, 0)
    groups, trained = pairs["captions"][:], len(pairs) - HELD_OUT
    random = generator_for(seed, "matching")
    weights = [p for p in task.parameters() if p.requires_grad]
    task.train()
    for step in range(MATCHING.steps):
        rows = random.choice(trained, int(MATCHING.batch_size), replace=False).tolist()
        samples = [
            Sample(
                pixels=torch.full((1, 1, 1), row),
                caption=str(random.choice(groups[row])),
                image_id=str(row),
                image_hash=row,
                index=row,
                epoch=0,
                name=str(row),
            )
            for row in rows
        ]
        torch.manual_seed(1000 * seed + step)
        losses = task(collate(samples))
        optimizer.zero_grad()
        losses.total.backward()
        clip_gradient(weights, MATCHING.clip)
        optimizer.step()
        schedule.step()
        if step % 16 == 15:
            told = {name: round(float(value), 3) for name, value in losses.metrics.items()}
            print(f"matching, step {step + 1}: {told}", flush=True)
    task.eval()
    held_out = torch.arange(trained, len(pairs))[:, None, None, None]
    print(calibrate(model, task.tokenizer, held_out.split(64), groups[trained:], "noisy pairs"))
    del model.vilta.encode_image  # from here on it sees pixels
    task.save_pretrained(str(out))
