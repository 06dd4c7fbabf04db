"""Fine-tune a CLIP of transformers with the hard negatives of `vilta negatives` (as NegCLIP).

    vilta pack "scenes:8000?seed=10&size=96" --out runs/negclip-data
    vilta negatives runs/demo runs/negclip-data --out runs/negclip.parquet
    python examples/negclip.py --data runs/negclip-data --negatives runs/negclip.parquet \\
        --tokenizer runs/demo/model

A small CLIP is first trained from scratch on the pairs. Training then continues for the same number
of steps, once unchanged and once as in NegCLIP (arXiv 2210.01936), where each image must also be
told apart from the negatives of all captions in the batch. Both are measured on other scenes: does
the true caption score higher than a false one-word edit, and is it found among 1,000 captions?
"""

import argparse
import copy
import random

import datasets
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, PreTrainedTokenizerBase

from vilta.apps.image_input import pixels_of
from vilta.data.sources import load_pairs
from vilta.scenes import captions, draw, make_scene, one_word_edits

SIZE = 96
"""Side of the images in pixels."""


def small_clip(words: int) -> CLIPModel:
    """Build a CLIP with random weights: two encoders of 4 layers and width 192."""
    layers = dict(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4
    )
    text = dict(**layers, vocab_size=words, max_position_embeddings=32, eos_token_id=3)
    vision = dict(**layers, image_size=SIZE, patch_size=16)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def embed_images(clip: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Return unit vectors of uint8 pixels."""
    states = clip.vision_model((pixels.float() / 127.5) - 1).pooler_output
    return F.normalize(clip.visual_projection(states), dim=-1)


def embed_texts(
    clip: CLIPModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> torch.Tensor:
    """Return unit vectors of texts."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    states = clip.text_model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    ).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return F.normalize(clip.text_projection((states * mask).sum(1) / mask.sum(1)), dim=-1)


def train(
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    table: datasets.Dataset,
    negatives: dict[str, list[tuple[str, str]]] | None,
    steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """Train in place; with ``negatives`` (image id: captions with negatives) as NegCLIP."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=5e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-4, total_steps=steps)
    rows = [
        i for i, image_id in enumerate(table["image_id"]) if not negatives or image_id in negatives
    ]
    clip.train()
    for _ in range(steps):
        batch = table[rng.sample(rows, batch_size)]
        pixels = pixels_of([image["bytes"] for image in batch["image"]], SIZE)
        if negatives is None:
            texts, wrong = [rng.choice(group) for group in batch["captions"]], []
        else:
            pairs = [rng.choice(negatives[image_id]) for image_id in batch["image_id"]]
            texts, wrong = map(list, zip(*pairs, strict=True))
        vectors = embed_texts(clip, tokenizer, texts + wrong)
        logits = clip.logit_scale.exp() * embed_images(clip, pixels) @ vectors.T  # [B, B or 2B]
        own = torch.arange(batch_size)
        loss = F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :batch_size].T, own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    clip.eval()


@torch.no_grad()
def measure(clip: CLIPModel, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Return edits rejected and image-to-text R@1, on scenes not used in training."""
    rng = random.Random(0)
    scenes = [make_scene(2, index) for index in range(count)]
    true = [rng.choice(captions(scene)) for scene in scenes]
    edits = [one_word_edits(scene, text, rng) for scene, text in zip(scenes, true, strict=True)]
    images = torch.cat(
        [
            embed_images(clip, pixels_of([draw(s, SIZE) for s in scenes[i : i + 100]], SIZE))
            for i in range(0, count, 100)
        ]
    )
    right = embed_texts(clip, tokenizer, true)
    edited = [i for i, edit in enumerate(edits) if edit]
    wrong = embed_texts(clip, tokenizer, [edits[i][0] for i in edited])
    rejected = (images * right).sum(1)[edited] > (images[edited] * wrong).sum(1)
    first = (images @ right.T).argmax(dim=1) == torch.arange(count)
    edits_rejected, r1 = 100 * rejected.float().mean(), 100 * first.float().mean()
    return f"edits rejected {edits_rejected:.1f} %, R@1 {r1:.1f} %"


def main() -> None:
    """Train, continue in two ways, and print the metrics of all three models."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--negatives", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=1000, help="scenes to measure on")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    table = load_pairs(given.data).cast_column("image", datasets.Image(decode=False))
    negatives: dict[str, list[tuple[str, str]]] = {}
    for line in datasets.load_dataset("parquet", data_files=given.negatives, split="train"):
        pair = (line["caption"], line["negative"])
        negatives.setdefault(line["image_id"], []).append(pair)
    clip = small_clip(len(tokenizer))
    settings = dict(steps=given.steps, batch_size=given.batch_size, seed=given.seed)
    train(clip, tokenizer, table, None, **settings)
    print("pre-trained:             ", measure(clip, tokenizer, given.scenes), flush=True)
    for name, wrong in {
        "continued:               ": None,
        "continued with negatives:": negatives,
    }.items():
        other = copy.deepcopy(clip)
        train(other, tokenizer, table, wrong, **settings)
        print(name, measure(other, tokenizer, given.scenes), flush=True)


if __name__ == "__main__":
    main()
