"""A trained model as ONNX files: image encoder, text encoder and matcher, for use without torch."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vilta.model.fusion import Pairs
from vilta.model.modeling import WithMatching
from vilta.training.folder import replaced_folder

TOLERANCE = 1e-4
"""Largest difference from torch that an export may have (float32)."""
SCRIPT = "rank.py"


class ImageEncoder(nn.Module):
    """Images to states and unit vectors; the pixels are normalised inside."""

    def __init__(self, model: WithMatching) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixels: UInt8[Tensor, "N 3 S S"]
    ) -> tuple[Float[Tensor, "N P Ci"], Float[Tensor, "N W"]]:
        """Encode; see ``ViltaModel.encode_image``."""
        states = self.model.vilta.encode_image(pixels)
        return states, self.model.embed_image(states)


class TextEncoder(nn.Module):
    """Token ids to states and unit vectors."""

    def __init__(self, model: WithMatching) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "T L"], attention_mask: Int[Tensor, "T L"]
    ) -> tuple[Float[Tensor, "T L Ct"], Float[Tensor, "T W"]]:
        """Encode; see ``ViltaModel.encode_text``."""
        states = self.model.vilta.encode_text(input_ids, attention_mask)
        return states, self.model.embed_text(states, attention_mask)


class PairMatcher(nn.Module):
    """Encoded texts and images to the log-odds that row i's text and image match."""

    def __init__(self, model: WithMatching) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        text_states: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image_states: Float[Tensor, "N P Ci"],
        text_rows: Int[Tensor, "R"],
        image_rows: Int[Tensor, "R"],
    ) -> Float[Tensor, "R"]:
        """Match; see ``WithMatching.match``."""
        pairs = Pairs(text=text_rows, image=image_rows)
        logits = self.model.match(text_states, attention_mask, image_states, pairs)
        return logits[:, 1] - logits[:, 0]


PARTS: dict[str, type[nn.Module]] = {
    "image_encoder": ImageEncoder,
    "text_encoder": TextEncoder,
    "matcher": PairMatcher,
}
OUTPUTS = {
    "image_encoder": ["image_states", "image_embeds"],
    "text_encoder": ["text_states", "text_embeds"],
    "matcher": ["log_odds"],
}
SIZES = {
    "pixels": {0: "images"},
    "input_ids": {0: "texts", 1: "tokens"},
    "attention_mask": {0: "texts", 1: "tokens"},
    "text_states": {0: "texts", 1: "tokens"},
    "image_states": {0: "images"},
    "text_rows": {0: "pairs"},
    "image_rows": {0: "pairs"},
}
"""Which dimensions of each input are free."""


def require_onnx() -> None:
    """Raise a ``ValueError`` with the install command if the extra is missing."""
    missing = [n for n in ("onnxruntime", "onnxscript") if importlib.util.find_spec(n) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; pip install 'vilta[onnx]'")


def export_onnx(
    model: WithMatching, tokenizer: PreTrainedTokenizerBase, folder: Path, *, int8: bool = False
) -> None:
    """Write the three models, tokenizer, settings and a script that ranks photos into ``folder``.

    ``int8`` adds models whose weights are quantised (dynamically: activations at run time). The
    folder is replaced as a whole. Raises ``ValueError`` if onnxruntime or onnxscript is missing.
    """
    require_onnx()
    model = copy.deepcopy(model).cpu().float().eval()
    with replaced_folder(folder) as place:
        for name, part in PARTS.items():
            _export(part(model), sample_inputs(model, name), OUTPUTS[name], place / f"{name}.onnx")
            if int8:
                _quantise(place / f"{name}.onnx", place / f"{name}.int8.onnx")
        tokenizer.backend_tokenizer.save(str(place / "tokenizer.json"))
        settings = json.dumps(_settings(model, tokenizer), indent=2)
        (place / "settings.json").write_text(settings + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("onnx_ranker.py"), place / SCRIPT)


@torch.no_grad()
def sample_inputs(
    model: WithMatching, part: str, images: int = 2, texts: int = 3, tokens: int = 5, pairs: int = 4
) -> dict[str, Tensor]:
    """Return random inputs of a part, of the given sizes; half of the texts are shorter."""
    config, generator = model.config, torch.Generator().manual_seed(0)

    def draw(top: int, *shape: int) -> Tensor:
        return torch.randint(0, top, shape, generator=generator)

    pixels = draw(256, images, 3, config.image_size, config.image_size).to(torch.uint8)
    if part == "image_encoder":
        return {"pixels": pixels}
    ids = draw(config.text_config.vocab_size, texts, tokens)
    mask = torch.ones_like(ids)
    mask[texts // 2 :, (tokens + 1) // 2 :] = 0
    if part == "text_encoder":
        return {"input_ids": ids, "attention_mask": mask}
    return {
        "text_states": model.vilta.encode_text(ids, mask),
        "attention_mask": mask,
        "image_states": model.vilta.encode_image(pixels),
        "text_rows": draw(texts, pairs),
        "image_rows": draw(images, pairs),
    }


@torch.no_grad()
def largest_difference(model: WithMatching, folder: Path) -> float:
    """Return the largest difference between exported models and torch, over several input sizes."""
    import onnxruntime

    largest = 0.0
    for name, part in PARTS.items():
        session = onnxruntime.InferenceSession(
            folder / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        for sizes in ((1, 1, 3, 1), (3, 5, model.config.max_text_tokens, 7)):
            inputs = sample_inputs(model, name, *sizes)
            expected = part(model)(**inputs)
            expected = expected if isinstance(expected, tuple) else (expected,)
            found = session.run(None, {key: value.numpy() for key, value in inputs.items()})
            for a, b in zip(found, expected, strict=True):
                largest = max(largest, float(np.abs(a - b.numpy()).max()))
    return largest


def _settings(model: WithMatching, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    config = model.config
    return {
        "image_size": config.image_size,
        "max_text_tokens": config.max_text_tokens,
        "pad_token": tokenizer.pad_token,
        "pad_token_id": tokenizer.pad_token_id,
        "scale": model.itc_head.scale().item(),
        "ranking": config.ranking,
        "match_temperature": config.match_temperature,
        "match_bias": config.match_bias,
    }


def _export(part: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    sizes = {
        name: {place: torch.export.Dim(size) for place, size in SIZES[name].items()}
        for name in inputs
    }
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            part.eval(),
            kwargs=inputs,
            f=path,
            input_names=list(inputs),
            output_names=outputs,
            dynamo=True,
            dynamic_shapes=sizes,
            external_data=False,
            verbose=False,
        )


def _quantise(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products and embeddings to int8, a scale per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log messages and warnings of the exporters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
