"""Modules that let sentence-transformers use a model (extra ``sentence-transformers``).

``CrossEncoder`` and ``SentenceTransformer`` are chains of modules, and each of these is a whole
chain::

    from sentence_transformers import CrossEncoder, SentenceTransformer
    from vilta.apps.sentence_transformers import ViltaEmbedder, ViltaReranker

    reranker = CrossEncoder(modules=[ViltaReranker("runs/mine")])
    reranker.rank("two dogs run on a beach", ["1.jpg", "2.jpg"])  # best first, with probabilities
    embedder = SentenceTransformer(modules=[ViltaEmbedder("runs/mine")])
    embedder.similarity(embedder.encode(["two dogs run"]), embedder.encode(["1.jpg", "2.jpg"]))

``save_pretrained`` writes a folder that ``vilta`` can load. Both classes load it too, with
``trust_remote_code=True``, which they require for modules of other packages.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modality import infer_modality
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from vilta.apps.released import load_released
from vilta.decoding import IMAGE_SUFFIXES
from vilta.model import ViltaProcessor
from vilta.model.fusion import Pairs
from vilta.training.folder import model_folder


class _ViltaModule(InputModule):
    """A released model and its processor."""

    save_in_root = True
    needs: str
    """The ranking with which a model cannot be used here."""
    advice: str

    def __init__(self, source: str | os.PathLike[str]) -> None:
        """Load a run or a released folder.

        Raises ``ValueError`` in one line if there is no such model, or the head is untrained.
        """
        super().__init__()
        released = load_released(source)
        self.model = released.model.eval()
        if self.model.config.ranking == self.needs:
            raise ValueError(f"{source} was trained by {self.needs} alone; {self.advice}")
        self.processor = ViltaProcessor.from_pretrained(model_folder(str(source)))
        self.tokenizer = self.processor.tokenizer

    @property
    def modalities(self) -> list[str]:
        """Kinds of input."""
        return ["text", "image"]

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the released folder."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> _ViltaModule:
        """Load what ``save`` wrote, from a folder or the hub."""
        known = ("token", "cache_folder", "revision", "local_files_only")
        options = {name: kwargs[name] for name in known if name in kwargs}
        return cls(cls.load_dir_path(model_name_or_path, subfolder, **options))


class ViltaReranker(_ViltaModule):
    """For ``CrossEncoder``: how well an image and a text match, in either order.

    ``scores`` are calibrated log-odds, so that the default activation makes them probabilities.
    """

    needs = "contrastive"
    advice = "use ViltaEmbedder"

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Prepare pairs; an image or text that several share is prepared and encoded once.

        Raises ``ValueError`` for a pair that is not one image and one text.
        """
        texts, images = _Distinct(), _Distinct()
        rows = [(texts.row(text), images.row(image)) for text, image in map(_text_image, inputs)]
        said = [(prompt or "") + text for text in texts.items]
        batch = self.processor(images=images.items, text=said, return_tensors="pt")
        text_rows, image_rows = torch.tensor(rows).T
        return {**batch, "text_rows": text_rows, "image_rows": image_rows}

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add ``scores``, ``[R, 1]``."""
        mask = features["attention_mask"]
        text_states = self.model.vilta.encode_text(features["input_ids"], mask)
        image_states = self.model.vilta.encode_image(features["pixel_values"])
        pairs = Pairs(text=features["text_rows"], image=features["image_rows"])
        logits = self.model.match(text_states, mask, image_states, pairs)
        config = self.model.config
        log_odds = (logits[:, 1] - logits[:, 0]) / config.match_temperature + config.match_bias
        return {**features, "scores": log_odds[:, None]}


class ViltaEmbedder(_ViltaModule):
    """For ``SentenceTransformer``: images or texts, one kind a call, to vectors of one space."""

    needs = "matching"
    advice = "use ViltaReranker"

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Prepare images or texts.

        Raises ``ValueError`` for a mixture that sentence-transformers has not refused.
        """
        items, kinds = [_content(each) for each in inputs], set(map(_kind, inputs))
        if len(kinds) > 1:
            raise ValueError("images and texts cannot be embedded in one call; make two")
        if kinds == {"image"}:
            return {**self.processor(images=items, return_tensors="pt")}
        said = [(prompt or "") + text for text in items]
        return {**self.processor(text=said, return_tensors="pt")}

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add ``sentence_embedding``, unit vectors ``[N, W]``."""
        if "pixel_values" in features:
            found = self.model.get_image_features(features["pixel_values"])
        else:
            found = self.model.get_text_features(features["input_ids"], features["attention_mask"])
        return {**features, "sentence_embedding": found.pooler_output}

    def get_embedding_dimension(self) -> int:
        """Return the width of the vectors."""
        return self.model.config.contrastive_width


class _Distinct:
    """The distinct items of a sequence, each with its row."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.rows: dict[Hashable, int] = {}

    def row(self, item: Any) -> int:
        """Return the row of an item; pictures and arrays are compared by identity."""
        key = item if isinstance(item, str | Path | bytes) else id(item)
        if key not in self.rows:
            self.rows[key] = len(self.items)
            self.items.append(item)
        return self.rows[key]


def _text_image(pair: Sequence[Any]) -> tuple[str, Any]:
    """Return the text and the image of a pair, whichever stands first."""
    found = {_kind(each): _content(each) for each in pair}
    if len(pair) != 2 or set(found) != {"text", "image"}:
        raise ValueError(
            f"a pair must be one text and one image (a picture, or the path of an image file), "
            f"got {' and '.join(_kind(each) for each in pair)}"
        )
    return found["text"], found["image"]


def _kind(item: Any) -> str:
    if isinstance(item, Path | bytes) or _is_photo(item):
        return "image"
    return str(infer_modality(item, supported_modalities=["text", "image"]))


def _is_photo(item: Any) -> bool:
    """Whether a string names an image file; sentence-transformers knows fewer suffixes."""
    return isinstance(item, str) and item.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(item)


def _content(item: Any) -> Any:
    """Unwrap ``{"text": ...}`` and ``{"image": ...}``."""
    return next(iter(item.values())) if isinstance(item, dict) else item
