"""``ViltaProcessor``: pictures and sentences to the tensors that the model takes."""

from __future__ import annotations

from typing import Any

from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase, ProcessorMixin

from vilta.model.configuration import ViltaConfig


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
        super().__init__(image_processor, tokenizer)

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
        tokenizer.model_max_length = config.max_text_tokens
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # what the model takes
        return cls(image_processor, tokenizer)
