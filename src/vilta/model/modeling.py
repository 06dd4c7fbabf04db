"""``WithMatching`` (the heads that compare) and ``ViltaForPreTraining`` (all heads)."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from vilta.model import encoders
from vilta.model.base import ViltaModel
from vilta.model.bert_layers import give_upper_layers, take_upper_layers
from vilta.model.configuration import ViltaConfig
from vilta.model.encoder_checks import check_image_encoder, check_text_encoder
from vilta.model.fusion import Pairs
from vilta.model.heads import (
    ContrastiveHead,
    LearnedTemperature,
    MaskedWordHead,
    MatchHead,
    OwnWordHead,
    StateAddition,
    pool,
    unit_vectors,
)
from vilta.model.outputs import ViltaOutput
from vilta.model.pretrained import ViltaPreTrainedModel


class WithMatching(ViltaPreTrainedModel):
    """Base of models that compare images with texts: match head and contrastive space."""

    vilta: ViltaModel

    def add_matching(self, config: ViltaConfig) -> None:
        """Add the two heads, to be called while the model is built."""
        streams = 2 if config.fusion == "co-attention" else 1
        if config.layout == "meter":
            self.itm_head: nn.Module = nn.Linear(streams * config.hidden_size, 2)
        else:
            self.itm_head = MatchHead(config.hidden_size, streams)
        if config.fusion_input == "contrastive":  # compared through what the fusion reads
            self.itc_head: LearnedTemperature = LearnedTemperature()
        else:
            self.itc_head = ContrastiveHead(
                encoders.image_width(config.vision_config),
                config.text_config.hidden_size,
                config.contrastive_width,
            )

    def match(
        self,
        text_states: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image_states: Float[Tensor, "N P Ci"],
        pairs: Pairs | None = None,
    ) -> Float[Tensor, "R 2"]:
        """Return no-match and match logits of encoded texts and images."""
        fused = self.vilta.fuse(text_states, attention_mask, image_states, pairs, pooled_only=True)
        mask = attention_mask if pairs is None else attention_mask[pairs.text]
        return self.classify_match(self.vilta.pool_fused(fused, mask.bool()))

    def classify_match(self, pooled: Float[Tensor, "R S"]) -> Float[Tensor, "R 2"]:
        """Return no-match and match logits of pooled states."""
        with self._ranks_are_read():
            return self.itm_head(pooled if self.training else pooled.to(self.dtype))

    def _ranks_are_read(self) -> AbstractContextManager[Any]:
        """In evaluation, compute in the weights' own format (float32 by default) despite autocast.

        bf16 rounds distinct scores to ties, so autocast is off in evaluation.
        """
        return nullcontext() if self.training else torch.autocast(self.device.type, enabled=False)

    def embed_image(self, states: Float[Tensor, "B P C"]) -> Float[Tensor, "B W"]:
        """Unit vectors of encoded images for the contrastive comparison."""
        # Not every tower has a class token; the mean serves all (our choice).
        return unit_vectors(self.compared_through()[0], pool(states, None, "mean"))

    def embed_text(
        self, states: Float[Tensor, "R L C"], attention_mask: Int[Tensor, "R L"]
    ) -> Float[Tensor, "R W"]:
        """Unit vectors of encoded texts for the contrastive comparison."""
        pooled = pool(states, attention_mask.bool(), self.config.pooling)
        return unit_vectors(self.compared_through()[1], pooled)

    def compared_through(self) -> tuple[nn.Linear, nn.Linear]:
        """Return the layers that lead images and texts into the space where they are compared."""
        if isinstance(self.itc_head, ContrastiveHead):
            return self.itc_head.image, self.itc_head.text
        assert isinstance(self.vilta.text_projection, nn.Linear)
        return self.vilta.image_projection, self.vilta.text_projection

    def similarity(
        self,
        image_states: Float[Tensor, "B P Ci"],
        text_states: Float[Tensor, "R L Ct"],
        attention_mask: Int[Tensor, "R L"],
    ) -> Float[Tensor, "B R"]:
        """Compare encoded images with encoded texts: cosine over the learned temperature."""
        images, texts = self.embed_image(image_states), self.embed_text(text_states, attention_mask)
        with self._ranks_are_read():
            return self.itc_head.scale() * images @ texts.T

    def score_all(
        self,
        image_states: Float[Tensor, "N P Ci"],
        text_states: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        pairs_per_call: int = 64,
    ) -> Float[Tensor, "N T"]:
        """Score each encoded image with each encoded text by what ``config.ranking`` names.

        Matching costs a pass through fusion for each of the ``N * T`` pairs.
        """
        scores = torch.zeros(len(image_states), len(text_states), device=image_states.device)
        if self.config.ranking != "matching":
            scores = scores + self.similarity(image_states, text_states, attention_mask)
        if self.config.ranking == "contrastive":
            return scores
        every = torch.cartesian_prod(
            torch.arange(len(image_states)), torch.arange(len(text_states))
        )
        chunks = every.to(image_states.device).split(pairs_per_call)
        logits = torch.cat(
            [
                self.match(text_states, attention_mask, image_states, Pairs(t, i))
                for i, t in (chunk.T for chunk in chunks)
            ]
        )
        return scores + (logits[:, 1] - logits[:, 0]).float().view_as(scores)

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Shaped[Tensor, "N 3 H W"], **_: Any
    ) -> BaseModelOutputWithPooling:
        """Encode images: states, and as ``pooler_output`` unit vectors ``[N, W]`` to compare.

        Other inputs of a processor's batch are ignored, as by transformers' models.
        """
        states = self.vilta.encode_image(pixel_values)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.embed_image(states)
        )

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Int[Tensor, "T L"],
        attention_mask: Int[Tensor, "T L"] | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode texts: states, and as ``pooler_output`` unit vectors ``[T, W]`` to compare."""
        if attention_mask is None:
            attention_mask = self.vilta.real_tokens(input_ids)
        states = self.vilta.encode_text(input_ids, attention_mask)
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=self.embed_text(states, attention_mask)
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "T L"] | None = None,
        attention_mask: Int[Tensor, "T L"] | None = None,
        pixel_values: Shaped[Tensor, "N 3 H W"] | None = None,
        output_attentions: bool | None = None,
    ) -> ViltaOutput:
        """Embed what is given, and score the pairs (as ``ViltaModel.forward``) if both are."""
        if input_ids is not None and attention_mask is None:
            attention_mask = self.vilta.real_tokens(input_ids)
        output = self.vilta(
            input_ids, attention_mask, pixel_values, output_attentions, return_dict=True
        )
        if output.image_states is not None:
            output.image_embeds = self.embed_image(output.image_states)
        if output.text_states is not None:
            output.text_embeds = self.embed_text(output.text_states, attention_mask)
        if output.pooled is not None:
            output.match_logits = self.classify_match(output.pooled)
        return output


class ViltaForPreTraining(WithMatching):
    """ViLTA with the heads of its pre-training objectives: MLM, ITM and ITC."""

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        self.vilta = ViltaModel(config)
        width, embeddings = config.hidden_size, self.vilta.get_input_embeddings().weight
        if config.layout == "meter":
            self.mlm_head: nn.Module = OwnWordHead(width, embeddings.shape[0])
        elif config.word_head == "language_model" and config.fusion == "text-layers":
            self.mlm_head = nn.Identity()  # fused states are already those of the language model
        elif config.word_head == "language_model":
            self.mlm_head = StateAddition(width, config.text_config.hidden_size)
        else:
            self.mlm_head = MaskedWordHead(width, *embeddings.T.shape)
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
        ``ValueError`` that says why an encoder cannot serve. With the fusion ``text-layers`` the
        upper ``fusion_layers`` layers of the text encoder become the fusion, which has its width.
        """
        settings.setdefault("freeze_batch_norm", not encoders.starts_at_random(image))
        vision, language = encoders.load_image_encoder(image), encoders.load_text_encoder(text)
        upper = None
        if settings.get("fusion") == "text-layers":
            count = settings.get("fusion_layers", ViltaConfig.fusion_layers)
            upper = take_upper_layers(language, count)
            own = ("hidden_size", "num_attention_heads")
            settings |= {name: getattr(language.config, name) for name in own}
        # Copies: a composite configuration takes over the choice of attention of its parts.
        parts = {"vision_config": vision.config, "text_config": language.config}
        config = ViltaConfig(**copy.deepcopy(parts), **settings)
        check_image_encoder(vision, config.image_size)
        check_text_encoder(language, config.max_text_tokens)
        model = cls(config)
        model.vilta.vision.load_state_dict(vision.state_dict())
        model.vilta.text.load_state_dict(language.state_dict())
        if upper is not None:
            give_upper_layers(model.vilta, upper)
        return model

    def predict_words(
        self, fused: Float[Tensor, "M D"], text_states: Float[Tensor, "M C"]
    ) -> Float[Tensor, "M V"]:
        """Return the vocabulary logits given text and image.

        ``fused`` and ``text_states`` are the same positions after fusion and before it; a
        ``separate`` word head reads the fused states alone.
        """
        if isinstance(self.mlm_head, nn.Identity):
            return self.predict_words_from_text(fused)
        if isinstance(self.mlm_head, StateAddition):
            return self.predict_words_from_text(text_states + self.mlm_head(fused))
        return self.mlm_head(fused, self.get_input_embeddings().weight)

    def predict_words_from_text(self, states: Float[Tensor, "M C"]) -> Float[Tensor, "M V"]:
        """Return the vocabulary logits given the text alone, from ``ViltaModel.read_alone``."""
        return encoders.language_model_logits(self.vilta.text, states)
