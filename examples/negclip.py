"""Fine-tune a CLIP of transformers with the hard negatives of `vilta negatives` (as NegCLIP).

    vilta pack "scenes:8000?seed=10&size=96" --out runs/negclip-data
    vilta negatives runs/demo runs/negclip-data --out runs/negclip.parquet
    python examples/negclip.py --data runs/negclip-data --negatives runs/negclip.parquet \\
        --tokenizer runs/demo/model

A small CLIP (a dual encoder of transformers) is first trained from scratch on the pairs. Training
then continues from there, once unchanged and once as in NegCLIP (arXiv 2210.01936), where each
image must also be told apart from the negatives of all captions in the batch. Both are measured on
other scenes: does the true caption score higher than a false one-word edit, and is it found among
1,000 captions?
"""

import argparse
import copy
import random

import datasets
import torch
from torch.nn import functional as F
from transformers import (
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerBase,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from vilta.apps.image_input import pixels_of
from vilta.data.sources import load_pairs
from vilta.model.conv_vit import ConvViTConfig
from vilta.scenes import captions, draw, make_scene, one_word_edits

SIZE = 96
"""Side of the images in pixels."""


def small_clip(words: int) -> VisionTextDualEncoderModel:
    """Build a dual encoder with random weights, 128 wide.

    The image tower begins with convolutions, as CLIP's ResNets do: so small a vision transformer
    sees no shapes before it has seen a few hundred thousand pictures.
    """
    vision = ConvViTConfig(
        stem_widths=[48, 96, 128], hidden_size=128, num_hidden_layers=1, initializer_range=0.08
    )
    text = BertConfig(
        vocab_size=words,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        initializer_range=0.08,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=128)
    return VisionTextDualEncoderModel(config)


def embed_images(clip: VisionTextDualEncoderModel, pixels: torch.Tensor) -> torch.Tensor:
    """Return unit vectors of uint8 pixels."""
    states = clip.vision_model((pixels.float() / 127.5) - 1).last_hidden_state
    return F.normalize(clip.visual_projection(states.mean(dim=1)), dim=-1)


def embed_texts(
    clip: VisionTextDualEncoderModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> torch.Tensor:
    """Return unit vectors of texts."""
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    states = clip.text_model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    ).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return F.normalize(clip.text_projection((states * mask).sum(1) / mask.sum(1)), dim=-1)


def train(
    clip: VisionTextDualEncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    table: datasets.Dataset,
    negatives: dict[str, list[tuple[str, str]]] | None,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> None:
    """Train in place; with ``negatives`` (image id: captions with negatives) as NegCLIP."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=lr, weight_decay=0.05)
    warmup = max(0.1, 1.5 / steps)  # OneCycleLR divides by the number of steps before its peak
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=warmup
    )
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
def measure(
    clip: VisionTextDualEncoderModel, tokenizer: PreTrainedTokenizerBase, count: int
) -> str:
    """Return how often a caption scores above its edit, and R@1, on scenes not trained on."""
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
    above = (images * right).sum(1)[edited] > (images[edited] * wrong).sum(1)
    first = (images @ right.T).argmax(dim=1) == torch.arange(count)
    captions_above, r1 = 100 * above.float().mean(), 100 * first.float().mean()
    return f"caption above its edit {captions_above:.1f} %, image to text R@1 {r1:.1f} %"


def main() -> None:
    """Train, continue in two ways, and print the metrics of all three models."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--negatives", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--steps", type=int, default=600, help="of the training from scratch")
    parser.add_argument("--more-steps", type=int, default=200, help="of each that goes on from it")
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
    settings = dict(batch_size=given.batch_size, seed=given.seed)
    train(clip, tokenizer, table, None, given.steps, 1.5e-3, **settings)
    print("pre-trained:             ", measure(clip, tokenizer, given.scenes), flush=True)
    for name, wrong in {
        "continued:               ": None,
        "continued with negatives:": negatives,
    }.items():
        other = copy.deepcopy(clip)
        train(other, tokenizer, table, wrong, given.more_steps, 5e-4, **settings)
        print(name, measure(other, tokenizer, given.scenes), flush=True)


if __name__ == "__main__":
    main()
