"""Models of the downstream tasks: the pre-trained encoders and fusion, and a head of their own."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers.utils import can_return_tuple

from vilta.model import encoders
from vilta.model.base import ViltaModel
from vilta.model.configuration import ViltaConfig
from vilta.model.fusion import Pairs
from vilta.model.heads import ClassificationHead
from vilta.model.modeling import WithMatching
from vilta.model.outputs import ViltaOutput
from vilta.model.pretrained import ViltaPreTrainedModel


class ViltaForImageTextRetrieval(WithMatching):
    """Match head and contrastive space: the pre-trained model without its word head."""

    ignored_prefixes: ClassVar[tuple[str, ...]] = ("mlm_head.",)

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        self.vilta = ViltaModel(config)
        self.add_matching(config)
        self.post_init()


class ViltaForZeroShotImageClassification(ViltaForImageTextRetrieval):
    """Scores of each image with each text: what transformers' zero-shot pipeline takes.

    ``from_pretrained`` takes a pre-training run's model, or one fine-tuned for retrieval.
    """

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "T L"],
        attention_mask: Int[Tensor, "T L"] | None = None,
        pixel_values: Shaped[Tensor, "N 3 H W"] | None = None,
    ) -> ViltaOutput:
        """Return ``logits_per_image``, ranked by what ``config.ranking`` names.

        Raises ``ValueError`` if the images are missing.
        """
        if pixel_values is None:
            raise ValueError("forward needs input_ids and pixel_values, as a ViltaProcessor makes")
        if attention_mask is None:
            attention_mask = self.vilta.real_tokens(input_ids)
        text_states = self.vilta.encode_text(input_ids, attention_mask)
        image_states = self.vilta.encode_image(pixel_values)
        return ViltaOutput(
            logits_per_image=self.score_all(image_states, text_states, attention_mask),
            image_embeds=self.embed_image(image_states),
            text_embeds=self.embed_text(text_states, attention_mask),
        )


class ViltaForImageTextClassification(ViltaPreTrainedModel):
    """One of ``config.num_labels`` labels for a text about ``images`` images (1 here).

    ``from_pretrained`` takes a pre-training run's model and gives it a new head, or a model of this
    class; a checkpoint of another task is an error.
    """

    ignored_prefixes: ClassVar[tuple[str, ...]] = ("mlm_head.", "itm_head.", "itc_head.")
    new_prefixes: ClassVar[tuple[str, ...]] = ("classifier.", "image_order.")
    images: ClassVar[int] = 1

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        self.vilta = ViltaModel(config)
        streams = 2 if config.fusion == "co-attention" else 1
        self.classifier = ClassificationHead(
            self.images * streams * config.hidden_size, config.hidden_size, config.num_labels
        )
        if self.images > 1:  # otherwise fusion could not distinguish them
            width = encoders.image_width(config.vision_config)
            self.image_order = nn.Embedding(self.images, width)
        self.post_init()

    def classify(
        self,
        text_states: Float[Tensor, "B L Ct"],
        attention_mask: Int[Tensor, "B L"],
        image_states: Float[Tensor, "N P Ci"],
        image_index: Int[Tensor, "B I"],
    ) -> Float[Tensor, "B A"]:
        """Logits of the labels from encoded texts and images; row i sees ``image_index[i]``.

        Each of the ``I`` images is fused with the text on its own, and the classifier reads all the
        pooled vectors side by side. With two images, a learned vector marks the first.
        Both are the way of METER and UNITER (arXiv 1909.11740).
        """
        rows, images = image_index.shape
        own = torch.arange(rows, device=image_states.device).repeat_interleave(images)
        pairs = Pairs(text=own, image=image_index.flatten())
        if images > 1:
            order = self.image_order.weight.repeat(rows, 1)[:, None]
            image_states = image_states.index_select(0, pairs.image) + order
            pairs = Pairs(text=own, image=torch.arange(len(own), device=image_states.device))
        fused = self.vilta.fuse(text_states, attention_mask, image_states, pairs, pooled_only=True)
        pooled = self.vilta.pool_fused(fused, attention_mask[own].bool())  # [B * I, S]
        return self.classifier(pooled.view(rows, -1))

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        pixel_values: Shaped[Tensor, "*I 3 H W"],
    ) -> ViltaOutput:
        """Classify ``B`` items: ``pixel_values`` is ``[B * I, 3, H, W]``, or ``[B, I, 3, H, W]``.

        Raises ``ValueError`` if there are not ``images`` images for each text.
        """
        pixels = pixel_values
        if pixels.ndim == 4 and len(pixels) == len(input_ids) * self.images:
            pixels = pixels.unflatten(0, (len(input_ids), self.images))
        if pixels.ndim != 5 or pixels.shape[:2] != (len(input_ids), self.images):
            raise ValueError(
                f"{type(self).__name__} reads {self.images} image(s) a text; got {len(input_ids)} "
                f"texts and pixel values of shape {tuple(pixel_values.shape)}"
            )
        image_index = torch.arange(pixels.shape[0] * pixels.shape[1], device=pixels.device)
        logits = self.classify(
            self.vilta.encode_text(input_ids, attention_mask),
            attention_mask,
            self.vilta.encode_image(pixels.flatten(0, 1)),
            image_index.view(pixels.shape[:2]),
        )
        return ViltaOutput(logits=logits)


class ViltaForVisualQuestionAnswering(ViltaForImageTextClassification):
    """Answers of a question about an image; ``config.id2label`` names the answers."""


class ViltaForVisualEntailment(ViltaForImageTextClassification):
    """Entailment, neutral or contradiction between an image and a sentence."""


class ViltaForVisualReasoning(ViltaForImageTextClassification):
    """Whether a sentence is true of two images."""

    images: ClassVar[int] = 2
