"""``ViltaModel`` (encoders and fusion) and ``ViltaForPreTraining`` (with its heads)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from vilta.model import encoders
from vilta.model.configuration import ViltaConfig
from vilta.model.fusion import FusedStates, Fusion, Pairs
from vilta.model.heads import ContrastiveHead, MaskedWordHead, MatchHead, pool
from vilta.model.pretrained import ViltaPreTrainedModel


@dataclass
class ViltaOutput(ModelOutput):
    """What a plain forward pass returns, one row per image-text pair."""

    last_hidden_state: Float[Tensor, "B L D"] | None = None
    pooled: Float[Tensor, "B S"] | None = None
    match_logits: Float[Tensor, "B 2"] | None = None
    image_embeds: Float[Tensor, "B W"] | None = None
    text_embeds: Float[Tensor, "B W"] | None = None
    logits: Float[Tensor, "B A"] | None = None


class ViltaModel(ViltaPreTrainedModel):
    """Image encoder, text encoder with its language-model head, and fusion."""

    leaves: ClassVar[tuple[str, ...]] = ("mlm_head.", "itm_head.", "itc_head.", "classifier.")

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        self.vision = AutoModel.from_config(config.vision_config)
        self.text = encoders.check_language_model(
            AutoModelForMaskedLM.from_config(config.text_config)
        )
        vision_width = encoders.image_width(config.vision_config)
        self.image_norm = nn.LayerNorm(vision_width)
        self.image_projection = nn.Linear(vision_width, config.hidden_size)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.hidden_size)
        self.fusion = Fusion(config)
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))
        self.gradient_checkpointing = False
        self.post_init()

    def train(self, mode: bool = True) -> ViltaModel:
        """Switch the mode; where ``freeze_batch_norm`` holds, batch norms stay in evaluation mode.

        Then ``forward`` changes no buffer, and an image's states do not depend on its neighbours.
        """
        super().train(mode)
        if self.config.freeze_batch_norm:
            for module in self.vision.modules():
                if "running_mean" in module._buffers:  # each library writes one of its own
                    module.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.text.get_input_embeddings()

    def encode_image(self, pixel_values: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B P C"]:
        """Return the image encoder's normed states.

        uint8 pixels are normalised here, on the device; float pixels are taken as normalised.
        """
        encoders.check_patch(self.config.vision_config, *pixel_values.shape[-2:])
        if not pixel_values.is_floating_point():
            mean, std = self.pixel_mean[:, None, None], self.pixel_std[:, None, None]
            pixel_values = pixel_values.to(mean.dtype).sub_(mean).div_(std)
        return self.image_norm(self._encode(encoders.image_states, self.vision, pixel_values))

    def encode_text(
        self, input_ids: Int[Tensor, "R L"], attention_mask: Int[Tensor, "R L"]
    ) -> Float[Tensor, "R L C"]:
        """Return the text encoder's states; no image is seen."""
        return self._encode(encoders.text_states, self.text, input_ids, attention_mask)

    def fuse(
        self,
        text: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image: Float[Tensor, "N P Ci"],
        pairs: Pairs | None = None,
        pooled_only: bool = False,
    ) -> FusedStates:
        """Fuse encoded texts and images; without ``pairs``, text i meets image i.

        With ``pooled_only`` the last layer computes just what ``pool_fused`` reads.
        """
        queries = 1 if pooled_only and self.config.pooling == "first" else None
        return self.fusion(
            self.text_projection(text),
            attention_mask.bool(),
            self.image_projection(image),
            pairs,
            queries,
        )

    def pool_fused(
        self, fused: FusedStates, attention_mask: Bool[Tensor, "R L"]
    ) -> Float[Tensor, "R S"]:
        """Return one vector per row, of the text stream and, if there is one, the image stream."""
        vectors = [pool(fused.text, attention_mask, self.config.pooling)]
        if fused.image is not None:
            vectors.append(pool(fused.image, None, "mean"))
        return torch.cat(vectors, dim=-1)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        pixel_values: Shaped[Tensor, "B 3 H W"],
    ) -> ViltaOutput:
        """Encode and fuse ``B`` image-text pairs."""
        fused = self.fuse(
            self.encode_text(input_ids, attention_mask),
            attention_mask,
            self.encode_image(pixel_values),
        )
        pooled = self.pool_fused(fused, attention_mask.bool())
        return ViltaOutput(last_hidden_state=fused.text, pooled=pooled)

    def _encode(
        self, encode: Callable[..., Tensor], encoder: PreTrainedModel, *inputs: Tensor
    ) -> Tensor:
        """Run an encoder, as one whole checkpoint if transformers gave it none of its own."""
        needed = self.gradient_checkpointing and self.training
        if needed and not encoder.supports_gradient_checkpointing:  # ResNet, ConvNeXt, MPNet
            held = encoders.hold_statistics(encoder)
            return torch.utils.checkpoint.checkpoint(
                encode, encoder, *inputs, use_reentrant=False, **held
            )
        return encode(encoder, *inputs)


class WithMatching(ViltaPreTrainedModel):
    """What compares images with texts: the match head and the contrastive space."""

    vilta: ViltaModel

    def add_matching(self, config: ViltaConfig) -> None:
        """Add the two heads, to be called while the model is built."""
        streams = 2 if config.fusion == "co-attention" else 1
        self.itm_head = MatchHead(config.hidden_size, streams)
        self.itc_head = ContrastiveHead(
            encoders.image_width(config.vision_config),
            config.text_config.hidden_size,
            config.contrastive_width,
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.vilta.get_input_embeddings()

    def match(
        self,
        text: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image: Float[Tensor, "N P Ci"],
        pairs: Pairs | None = None,
    ) -> Float[Tensor, "R 2"]:
        """Return no-match and match logits of encoded texts and images."""
        fused = self.vilta.fuse(text, attention_mask, image, pairs, pooled_only=True)
        mask = attention_mask if pairs is None else attention_mask[pairs.text]
        return self.classify_match(self.vilta.pool_fused(fused, mask.bool()))

    def classify_match(self, pooled: Float[Tensor, "R S"]) -> Float[Tensor, "R 2"]:
        """Return no-match and match logits of pooled states."""
        with self._ranks_are_read():
            return self.itm_head(pooled if self.training else pooled.to(self.dtype))

    def _ranks_are_read(self) -> AbstractContextManager[Any]:
        """Compute in evaluation as the weights are, float32 by default, whatever autocast says.

        bf16 has 8 bits, so it ties scores that differ, and a tie is no rank. A loss does not mind.
        """
        return nullcontext() if self.training else torch.autocast(self.device.type, enabled=False)

    def embed_image(self, states: Float[Tensor, "B P C"]) -> Float[Tensor, "B W"]:
        """Unit vectors of encoded images for the contrastive comparison."""
        # Not every tower has a class token; the mean serves all (our choice).
        return self.itc_head.embed_image(pool(states, None, "mean"))

    def embed_text(
        self, states: Float[Tensor, "R L C"], attention_mask: Int[Tensor, "R L"]
    ) -> Float[Tensor, "R W"]:
        """Unit vectors of encoded texts for the contrastive comparison."""
        return self.itc_head.embed_text(pool(states, attention_mask.bool(), self.config.pooling))

    def similarity(
        self,
        image: Float[Tensor, "B P Ci"],
        text: Float[Tensor, "R L Ct"],
        attention_mask: Int[Tensor, "R L"],
    ) -> Float[Tensor, "B R"]:
        """Compare encoded images with encoded texts: cosine over the learned temperature."""
        images, texts = self.embed_image(image), self.embed_text(text, attention_mask)
        with self._ranks_are_read():
            return self.itc_head.scale() * images @ texts.T

    def forward(
        self,
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        pixel_values: Shaped[Tensor, "B 3 H W"],
    ) -> ViltaOutput:
        """Score ``B`` image-text pairs: match logits, and both contrastive embeddings."""
        text = self.vilta.encode_text(input_ids, attention_mask)
        image = self.vilta.encode_image(pixel_values)
        fused = self.vilta.fuse(text, attention_mask, image)
        pooled = self.vilta.pool_fused(fused, attention_mask.bool())
        return ViltaOutput(
            last_hidden_state=fused.text,
            pooled=pooled,
            match_logits=self.classify_match(pooled),
            image_embeds=self.embed_image(image),
            text_embeds=self.embed_text(text, attention_mask),
        )


class ViltaForPreTraining(WithMatching):
    """ViLTA with the heads of its pre-training objectives: MLM, ITM and ITC."""

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        self.vilta = ViltaModel(config)
        embeddings = self.vilta.get_input_embeddings().weight
        self.mlm_head = MaskedWordHead(config.hidden_size, embeddings.shape[1], embeddings.shape[0])
        self.add_matching(config)
        self.post_init()

    @classmethod
    def from_encoders(
        cls, image: str | PreTrainedConfig, text: str | PreTrainedConfig, **settings: Any
    ) -> ViltaForPreTraining:
        """Join two pre-trained encoders with a new fusion.

        ``image`` and ``text`` are hub ids, local folders, or transformers configurations (random
        weights); ``settings`` are fields of ``ViltaConfig``. The text encoder keeps its
        language-model head. Batch norms of an image encoder that starts at random learn their
        statistics, those of a pre-trained one are frozen (``freeze_batch_norm`` overrides). Raises
        ``ValueError`` that says why an encoder cannot serve.
        """
        settings.setdefault("freeze_batch_norm", not encoders.starts_at_random(image))
        vision, language = encoders.load_image_encoder(image), encoders.load_text_encoder(text)
        # Copies: a composite configuration takes over the choice of attention of its parts.
        parts = {"vision_config": vision.config, "text_config": language.config}
        config = ViltaConfig(**copy.deepcopy(parts), **settings)
        encoders.check_image_encoder(vision, config.image_size)
        encoders.check_text_length(language, config.max_text_tokens)
        model = cls(config)
        model.vilta.vision.load_state_dict(vision.state_dict())
        model.vilta.text.load_state_dict(language.state_dict())
        return model

    def predict_words(self, states: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """Vocabulary logits from fused states: what text and image expect."""
        return self.mlm_head(states, self.get_input_embeddings().weight)

    def predict_words_from_text(self, states: Float[Tensor, "M C"]) -> Float[Tensor, "M V"]:
        """Vocabulary logits from the text encoder's states: what the text alone expects."""
        return encoders.language_model_logits(self.vilta.text, states)
