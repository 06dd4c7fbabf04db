"""``ViltaProcessor``: pictures and sentences to the tensors that the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import (
    BatchFeature,
    CLIPImageProcessorPil,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from vilta.decoding import bounded_bytes, decode_image, picture_of, upright_rgb
from vilta.model.configuration import ViltaConfig
from vilta.model.language_model import forget_calls


class ViltaProcessor(ProcessorMixin):
    """A PIL image processor and a tokenizer; ``processor(images=..., text=...)`` gives a batch.

    The image processor resizes the short side, crops the centre and normalises, all with PIL and
    numpy, so that torchvision is never needed and every machine computes the same pixels.
    """

    def __init__(
        self,
        image_processor: CLIPImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if tokenizer is not None:  # what training and evaluation do, whatever its file says
            tokenizer.padding_side = "right"
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        super().__init__(image_processor, tokenizer)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Turn images and texts into tensors; texts are padded, and cut to what the model reads.

        An image is a PIL image, a path, an address, the bytes of a file, or an array ``[H, W]``,
        ``[H, W, 3]`` or ``[3, H, W]``; ``images`` is one of these or a list. Raises ``ValueError``
        in one line for an image that cannot be read.
        """
        if images is not None:
            given = images if isinstance(images, list | tuple) else [images]
            images = [_rgb(image) for image in given]
        if text is not None:
            for name in {"padding", "truncation"} - set(kwargs.get("text_kwargs", ())):
                kwargs.setdefault(name, True)
        return super().__call__(images, text, **kwargs)

    @classmethod
    def from_config(cls, config: ViltaConfig, tokenizer: PreTrainedTokenizerBase) -> ViltaProcessor:
        """Build the processor that fits a model's configuration."""
        image_processor = CLIPImageProcessorPil(
            size={"shortest_edge": config.image_size},
            crop_size={"height": config.image_size, "width": config.image_size},
            image_mean=list(config.image_mean),
            image_std=list(config.image_std),
            do_convert_rgb=True,
        )
        forget_calls(tokenizer)
        tokenizer.model_max_length = config.max_text_tokens
        return cls(image_processor, tokenizer)


def _rgb(image: Any) -> Any:
    """Decode an image as evaluation does; an address is left to transformers."""
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, bytes):
        return decode_image(image)
    if isinstance(image, str | Path):
        if str(image).startswith(("http://", "https://")):
            return image
        try:
            return decode_image(bounded_bytes(image))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"{image}: {reason}") from None
    return picture_of(np.asarray(image))
