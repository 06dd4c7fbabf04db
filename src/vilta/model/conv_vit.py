"""A small image encoder for small data: a convolutional stem, then transformer layers.

Convolutions in place of a patch embedding learn faster and steadier (arXiv 2106.14881), which is
what a laptop run needs. Large runs take a pre-trained encoder instead.
"""

from __future__ import annotations

from typing import Any, no_type_check

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from vilta.model.attention import Attention, feed_forward
from vilta.model.encoders import grid_positions


@no_type_check  # transformers checks the fields, and takes more keywords than there are fields
class ConvViTConfig(PreTrainedConfig):
    """Sizes of the encoder; the defaults suit pictures of about 100 pixels.

    The stem cuts the image into ``first_patch`` squares, then halves the map with each further
    convolution; ``stem_widths`` are the channels of all of them.
    """

    model_type = "vilta-conv-vit"

    first_patch: int = 4
    stem_widths: list[int] | tuple[int, ...] = (64, 128, 192)
    hidden_size: int = 192
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive the patch size."""
        self.stem_widths = list(self.stem_widths)
        self.patch_size = self.first_patch * 2 ** (len(self.stem_widths) - 1)
        super().__post_init__(**kwargs)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = feed_forward(width)

    def forward(self, x: Float[Tensor, "B P C"]) -> Float[Tensor, "B P C"]:
        """Let each position read all others, then transform it."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, *self.attention.keys_values(normed), None)
        return x + self.mlp(self.mlp_norm(x))


class ConvViTModel(PreTrainedModel):
    """A stem of convolutions with batch norm, then pre-norm transformer layers.

    Norms over a whole map (group norm, one group) are ruled by the background: shapes and textures
    of small things took several times as many samples (see the design log).
    """

    config_class = ConvViTConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: ConvViTConfig) -> None:
        super().__init__(config)
        stem: list[nn.Module] = []
        channels = 3
        for width in config.stem_widths:
            patch = config.first_patch
            convolution = (
                nn.Conv2d(channels, width, 3, stride=2, padding=1)
                if stem
                else nn.Conv2d(channels, width, patch, stride=patch)
            )
            stem += [convolution, nn.BatchNorm2d(width), nn.GELU()]
            channels = width
        self.stem = nn.Sequential(*stem, nn.Conv2d(channels, config.hidden_size, 1))
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden_size, config.num_attention_heads)
            for _ in range(config.num_hidden_layers)
        )
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):  # as strong as the positions that are added to it
            init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> BaseModelOutput:
        """Encode normalised pixels; ``last_hidden_state`` is ``[B, H/p * W/p, C]``."""
        grid = self.stem(pixel_values)
        height, width = grid.shape[-2:]
        positions = grid_positions(height, width, grid.shape[1], grid.device)
        states = grid.flatten(2).transpose(1, 2) + positions.to(self.dtype)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                states = self._gradient_checkpointing_func(layer, states)
            else:
                states = layer(states)
        return BaseModelOutput(last_hidden_state=states)
