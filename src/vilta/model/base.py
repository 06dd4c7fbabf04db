"""``ViltaModel``: the two encoders and the fusion, without heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.utils import can_return_tuple

from vilta.model import encoders
from vilta.model.attention import recorded_attention
from vilta.model.configuration import ViltaConfig
from vilta.model.encoder_attention import speed_up
from vilta.model.fusion import FusedStates, Fusion, Pairs, Wanted
from vilta.model.heads import FirstTokenPooler, pool
from vilta.model.outputs import ViltaOutput, paired
from vilta.model.pretrained import ViltaPreTrainedModel


class ViltaModel(ViltaPreTrainedModel):
    """Image encoder, text encoder with its language-model head, and fusion."""

    ignored_prefixes: ClassVar[tuple[str, ...]] = (
        "mlm_head.",
        "itm_head.",
        "itc_head.",
        "classifier.",
    )

    def __init__(self, config: ViltaConfig) -> None:
        super().__init__(config)
        # Not that of the encoders' configurations: a checkpoint in bf16 is trained in float32.
        dtype = torch.get_default_dtype()
        self.vision = speed_up(AutoModel.from_config(config.vision_config, dtype=dtype))
        self.text = speed_up(
            encoders.check_language_model(
                AutoModelForMaskedLM.from_config(config.text_config, dtype=dtype)
            )
        )
        vision_width = encoders.image_width(config.vision_config)
        self.image_norm = nn.LayerNorm(vision_width)
        self.image_projection = nn.Linear(vision_width, config.hidden_size)
        self.text_projection: nn.Module = nn.Identity()
        if config.fusion != "text-layers":
            self.text_projection = nn.Linear(config.text_config.hidden_size, config.hidden_size)
        self.fusion = Fusion(config)
        if config.layout == "meter":
            streams = 2 if config.fusion == "co-attention" else 1
            self.pooler = FirstTokenPooler(config.hidden_size, streams)
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))
        self.gradient_checkpointing = False
        self.post_init()

    def train(self, mode: bool = True) -> ViltaModel:
        """Switch the mode; batch norms stay in evaluation mode where they do not learn.

        That is where ``freeze_batch_norm`` holds or the whole image encoder is frozen. Then
        ``forward`` changes no buffer, and an image's states do not depend on its neighbours.
        """
        super().train(mode)
        frozen = not any(weight.requires_grad for weight in self.vision.parameters())
        if self.config.freeze_batch_norm or frozen:
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
        # The order that convolutions compute in: a ResNet is up to 1.5 times as fast.
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        return self.image_norm(self._encode(encoders.image_states, self.vision, pixel_values))

    def encode_text(
        self, input_ids: Int[Tensor, "R L"], attention_mask: Int[Tensor, "R L"]
    ) -> Float[Tensor, "R L C"]:
        """Return the text encoder's states; no image is seen."""
        return self._encode(encoders.text_states, self.text, input_ids, attention_mask)

    def read_alone(
        self,
        text_states: Float[Tensor, "R L C"],
        attention_mask: Int[Tensor, "R L"],
        positions: Int[Tensor, "M"],
    ) -> Float[Tensor, "M C"]:
        """Return what the language model's head reads where no image is seen.

        ``positions`` are a flat index into ``R * L``. Encoded texts as they are, or, where the text
        encoder's upper layers are the fusion, what those make of them.
        """
        if self.config.fusion == "text-layers":
            return self.fusion.read_alone(text_states, attention_mask.bool(), positions)
        return text_states.flatten(0, 1)[positions]

    def fuse(
        self,
        text_states: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image_states: Float[Tensor, "N P Ci"],
        pairs: Pairs | None = None,
        pooled_only: bool = False,
    ) -> FusedStates:
        """Fuse encoded texts and images; without ``pairs``, text i meets image i.

        With ``pooled_only`` the last layer computes just what ``pool_fused`` reads.
        """
        settings, wanted = self.config, Wanted()
        if pooled_only:
            meter = settings.layout == "meter"
            wanted = Wanted(
                text=1 if meter or settings.pooling == "first" else None,
                image=1 if meter or settings.image_pooling == "first" else None,
            )
        return self._fuse(text_states, attention_mask, image_states, pairs, wanted)

    def fuse_at(
        self,
        positions: Int[Tensor, "M"],
        text_states: Float[Tensor, "B L Ct"],
        attention_mask: Int[Tensor, "B L"],
        image_states: Float[Tensor, "B P Ci"],
    ) -> Float[Tensor, "M D"]:
        """Fuse text i with image i and return the text states at a flat index into ``B * L``."""
        wanted = Wanted(image=0, at=positions)
        return self._fuse(text_states, attention_mask, image_states, None, wanted).text

    def _fuse(
        self,
        text_states: Float[Tensor, "T L Ct"],
        attention_mask: Int[Tensor, "T L"],
        image_states: Float[Tensor, "N P Ci"],
        pairs: Pairs | None,
        wanted: Wanted,
    ) -> FusedStates:
        text, image = self.text_projection(text_states), self.image_projection(image_states)
        if self.config.fusion_input == "contrastive":  # a cosine does not see how long they are
            text, image = (F.layer_norm(x, x.shape[-1:]) for x in (text, image))
        return self.fusion(text, attention_mask.bool(), image, pairs, wanted)

    def pool_fused(
        self, fused: FusedStates, attention_mask: Bool[Tensor, "R L"]
    ) -> Float[Tensor, "R S"]:
        """Return one vector per row, of the text stream and, if there is one, the image stream."""
        if self.config.layout == "meter":
            return self.pooler(*(stream for stream in fused if stream is not None))
        vectors = [pool(fused.text, attention_mask, self.config.pooling)]
        if fused.image is not None:
            vectors.append(pool(fused.image, None, self.config.image_pooling))
        return torch.cat(vectors, dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "T L"] | None = None,
        attention_mask: Int[Tensor, "T L"] | None = None,
        pixel_values: Shaped[Tensor, "N 3 H W"] | None = None,
        output_attentions: bool | None = None,
    ) -> ViltaOutput:
        """Encode what is given, and fuse texts with images if both are: ``B`` pairs.

        Text i meets image i; a single image meets every text, and a single text every image.
        Without ``attention_mask`` all tokens but padding are read. Raises ``ValueError`` for other
        numbers of images and texts, and if neither is given.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("forward needs input_ids, pixel_values or both, as a processor makes")
        output = ViltaOutput()
        if input_ids is not None:
            if attention_mask is None:
                attention_mask = self.real_tokens(input_ids)
            output.text_states = self.encode_text(input_ids, attention_mask)
        if pixel_values is not None:
            output.image_states = self.encode_image(pixel_values)
        if input_ids is not None and pixel_values is not None:
            assert attention_mask is not None
            self._fuse_pairs(output, attention_mask, bool(output_attentions))
        return output

    def _fuse_pairs(
        self, output: ViltaOutput, attention_mask: Int[Tensor, "T L"], with_attentions: bool
    ) -> None:
        """Complete an output that holds the states of texts and images."""
        text, image = output.text_states, output.image_states
        assert text is not None and image is not None
        pairs = paired(len(image), len(text), text.device)
        own = torch.arange(len(text), device=text.device) if pairs is None else pairs.text
        watched = self.fusion.text_attentions() if with_attentions else []
        with recorded_attention(watched) as recorded:
            fused = self.fuse(text, attention_mask, image, pairs)
        output.last_hidden_state = fused.text
        output.pooled = self.pool_fused(fused, attention_mask[own].bool())
        if with_attentions:  # self and cross take turns; the first reads a text once for all
            rows = [w if len(w) == len(own) else w[own] for w in recorded]
            output.attentions, output.cross_attentions = tuple(rows[::2]), tuple(rows[1::2])

    def real_tokens(self, input_ids: Int[Tensor, "T L"]) -> Int[Tensor, "T L"]:
        """Return the attention mask of texts that came without one: all tokens but padding."""
        padding = self.config.text_config.pad_token_id
        return torch.ones_like(input_ids) if padding is None else (input_ids != padding).long()

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
