"""Rank the photos of a folder for a sentence, with ONNX models alone: neither torch nor vilta.

This file is copied beside the models that ``vilta export`` writes, and runs there with Python and
``pip install onnxruntime tokenizers pillow numpy``::

    python rank.py PHOTOS "two dogs run on a beach" --top 5
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

MODELS = ("image_encoder", "text_encoder", "matcher")
BATCH = 32
"""Images or texts in one call."""
PAIRS = 256
"""Pairs in one call."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Texts(NamedTuple):
    """``T`` encoded texts of ``L`` tokens."""

    states: np.ndarray
    """``[T, L, C]``"""
    attention_mask: np.ndarray
    """``[T, L]``"""
    embeds: np.ndarray
    """Unit vectors ``[T, W]``."""


class Found(NamedTuple):
    """A photo and how well it fits; the probability is None if the model has no match head."""

    path: Path
    score: float
    probability: float | None


class Ranker:
    """The three exported models with tokenizer and settings."""

    def __init__(self, folder: str | Path, int8: bool = False) -> None:
        """Load the models of a folder; ``int8`` takes the quantised ones.

        Raises ``ValueError`` in one line if they are not there.
        """
        self.folder = Path(folder)
        suffix = ".int8.onnx" if int8 else ".onnx"
        names = [f"{name}{suffix}" for name in MODELS] + ["settings.json", "tokenizer.json"]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            hint = " (vilta export RUN --int8 writes it)" if int8 else ""
            raise ValueError(f"{folder} has no {missing[0]}{hint}")
        self.settings = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
        self.image_encoder, self.text_encoder, self.matcher = (
            onnxruntime.InferenceSession(self.folder / name, providers=["CPUExecutionProvider"])
            for name in names[:3]
        )
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.settings["max_text_tokens"])
        self.tokenizer.enable_padding(
            pad_id=self.settings["pad_token_id"], pad_token=self.settings["pad_token"]
        )

    def encode_images(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn uint8 pixels ``[N, 3, S, S]`` into states ``[N, P, C]`` and unit vectors."""
        parts = [self.image_encoder.run(None, {"pixels": part}) for part in _parts(pixels)]
        states, embeds = (np.concatenate(part) for part in zip(*parts, strict=True))
        return states, embeds

    def encode_texts(self, texts: Sequence[str]) -> Texts:
        """Tokenise and encode texts, padded to the longest."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        parts = [
            self.text_encoder.run(None, {"input_ids": i, "attention_mask": m})
            for i, m in zip(_parts(ids), _parts(mask), strict=True)
        ]
        states, embeds = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Texts(states, mask, embeds)

    def match(
        self, texts: Texts, image_states: np.ndarray, text_rows: np.ndarray, image_rows: np.ndarray
    ) -> np.ndarray:
        """Return the log-odds of a match for the pairs ``(text_rows[i], image_rows[i])``."""
        scores = [np.empty(0, np.float32)]
        for text, image in zip(_parts(text_rows, PAIRS), _parts(image_rows, PAIRS), strict=True):
            said, own_text = np.unique(text, return_inverse=True)
            seen, own_image = np.unique(image, return_inverse=True)
            inputs = {
                "text_states": texts.states[said],
                "attention_mask": texts.attention_mask[said],
                "image_states": image_states[seen],
                "text_rows": own_text,
                "image_rows": own_image,
            }
            scores.append(self.matcher.run(None, inputs)[0])
        return np.concatenate(scores)

    def similarity(self, image_embeds: np.ndarray, texts: Texts) -> np.ndarray:
        """Return cosine over the learned temperature, ``[N, T]``."""
        return self.settings["scale"] * image_embeds @ texts.embeds.T

    def probability(self, log_odds: float) -> float:
        """Turn log-odds of a match into a probability, calibrated if the run was."""
        logit = log_odds / self.settings["match_temperature"] + self.settings["match_bias"]
        return float(1 / (1 + np.exp(-np.clip(logit, -60, 60))))

    def rank(
        self, sentence: str, photos: Sequence[Path], top: int = 10, rerank: int = 50
    ) -> list[Found]:
        """Return the ``top`` photos: contrast ranks all of them, matching re-ranks the best."""
        ranking = self.settings["ranking"]
        text = self.encode_texts([sentence])
        size = self.settings["image_size"]
        batches = [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]
        similarity = np.zeros(len(photos), np.float32)
        if ranking != "matching":
            embeds = [self.encode_images(read_pixels(batch, size))[1] for batch in batches]
            similarity = self.similarity(np.concatenate(embeds), text)[:, 0]
        order = np.argsort(-similarity, kind="stable")
        if ranking == "contrastive":
            return [Found(photos[i], float(similarity[i]), None) for i in order[:top]]
        found = []
        best = order if ranking == "matching" else order[: max(rerank, top)]
        for start in range(0, len(best), BATCH):
            rows = best[start : start + BATCH]
            states, _ = self.encode_images(read_pixels([photos[i] for i in rows], size))
            own = np.arange(len(rows))
            odds = self.match(text, states, np.zeros_like(own), own)
            found += [
                Found(photos[i], float(each + similarity[i]), self.probability(float(each)))
                for i, each in zip(rows, odds, strict=True)
            ]
        return sorted(found, key=lambda each: -each.score)[:top]


def read_pixels(paths: Sequence[Path], size: int) -> np.ndarray:
    """Read photos as uint8 ``[N, 3, size, size]``: upright, short side resized, centre cropped."""
    pixels = []
    for path in paths:
        with Image.open(path) as opened:
            image = upright_rgb(opened)
        width, height = image.size
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
        pixels.append(np.asarray(image).transpose(2, 0, 1))
    return np.stack(pixels)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: upright, on white, grey of more than 8 bits scaled to them.

    Raises ``ValueError`` for grey whose scale is unknown.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # Pillow would clip all above 255
        image = Image.fromarray(_bytes_of(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _bytes_of(grey: np.ndarray) -> np.ndarray:
    """Scale floats from 0 to 1 or to 255, and integers from 0 to 255 or of 16 bits."""
    if grey.dtype.kind == "f":
        grey = grey * 255 if grey.max() <= 1 else grey
    elif grey.itemsize == 2 or grey.max() > 255:
        grey = grey >> 8
    if not (grey.min() >= 0 and grey.max() <= 255):  # also for NaN
        raise ValueError("grey of an unknown scale")
    return grey.round().astype(np.uint8)


def readable(folder: Path) -> list[Path]:
    """Return the image files below a folder that can be opened, in order, but for hidden ones."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            try:
                with Image.open(path) as image:
                    image.draft(None, (1, 1))  # an eighth of a JPEG: all of it is read, few pixels
                    upright_rgb(image)
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                print(f"skipped {path}: {error}", file=sys.stderr)
            else:
                found.append(path)
    return found


def _parts(rows: np.ndarray, size: int = BATCH) -> Iterator[np.ndarray]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def main() -> None:
    """Rank a folder and print what was found, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder with photos")
    parser.add_argument("sentence")
    parser.add_argument("--top", type=int, default=10, help="photos to print")
    parser.add_argument("--int8", action="store_true", help="use the quantised models")
    parser.add_argument("--models", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    if arguments.top < 1:
        parser.error(f"--top is {arguments.top}; it must be 1 or more")
    try:
        ranker = Ranker(arguments.models, int8=arguments.int8)
    except ValueError as error:
        parser.error(str(error))
    photos = readable(arguments.photos)
    if not photos:
        parser.error(f"no photos in {arguments.photos}")
    for found in ranker.rank(arguments.sentence, photos, arguments.top):
        chance = "" if found.probability is None else f"  {100 * found.probability:5.1f} %"
        print(f"{found.score:8.2f}{chance}  {found.path}")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` has read enough: no error
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    main()
