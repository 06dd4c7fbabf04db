"""``ViltaConfig``: the two encoders' own configurations and how they are fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args, no_type_check

from transformers import AutoConfig, PreTrainedConfig

from vilta.config.pretrain import FusionKind
from vilta.model.damage import check_sizes, damage_told, reason_of

FUSION_KINDS = get_args(FusionKind)
LAYOUTS = ("vilta", "meter")
"""``meter`` is as METER's released weights need it; see ``vilta.model.meter``."""
FUSION_INPUTS = ("separate", "contrastive")
WORD_HEADS = ("separate", "language_model")
POOLINGS = ("first", "mean")
RANKINGS = ("contrastive", "matching", "combined")
"""By what images and texts are ranked: cosine, log-odds of a match, or their sum."""
CALIBRATION = (
    "match_temperature",
    "match_bias",
    "search_threshold",
    "suspicion_threshold",
    "calibrated_on",
)
"""Settings that hold for the weights which they were measured with."""


@no_type_check  # transformers checks the fields, and takes more keywords than there are fields
class ViltaConfig(PreTrainedConfig):
    """Architecture of a ViLTA model; field docs are those of ``vilta.config.ModelConfig``.

    ``vision_config`` and ``text_config`` are the encoders' transformers configurations (objects or
    dicts with a ``model_type``). ``image_mean`` and ``image_std`` normalise pixels in [0, 1].
    ``freeze_batch_norm``: in training, batch norms of the image encoder use and keep the
    statistics that they came with, which a pre-trained one wants, and one from scratch cannot have.
    Those of an encoder without a trainable weight do so in any case.
    ``ranking``: which of the two heads that compare images with texts are trained.
    ``match_temperature`` and ``match_bias`` turn the log-odds of the match head into probabilities;
    ``search_threshold`` is the probability from which a photo that was searched for matches well;
    ``suspicion_threshold`` is the suspicion above which a word is flagged (None: not set);
    ``calibrated_on`` names the held-out pairs that set them (empty: none did). See
    ``vilta.metrics.calibration``.
    With the fusion ``text-layers``, ``text_config`` is of the layers below the fusion.
    Raises ``ValueError`` for an unknown fusion kind, input, layout, word head, pooling or ranking,
    and for widths that do not fit each other or the heads.
    """

    model_type = "vilta"
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: Any = None  # dict or PreTrainedConfig; made a PreTrainedConfig below
    text_config: Any = None  # idem
    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    fusion: str = "co-attention"  # what models had first; pre-training takes cross-attention
    fusion_layers: int = 6
    hidden_size: int = 768
    num_attention_heads: int = 12
    layout: str = "vilta"
    fusion_input: str = "separate"  # what models had before there was a choice, as the next
    word_head: str = "separate"
    pooling: str = "first"
    image_pooling: str = "mean"
    dropout: float = 0.1
    freeze_batch_norm: bool = True
    contrastive_width: int = 256
    ranking: str = "combined"
    max_text_tokens: int = 50
    initializer_range: float = 0.02
    match_temperature: float = 1.0
    match_bias: float = 0.0
    search_threshold: float = 0.5
    suspicion_threshold: float | None = None
    calibrated_on: str = ""
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn nested dicts into configurations and check the values."""
        self.vision_config = _nested(self.vision_config, default="vit")
        self.text_config = _nested(self.text_config, default="bert")
        self.image_mean, self.image_std = list(self.image_mean), list(self.image_std)
        # Whether the language-model head is tied to the embeddings is the text encoder's affair.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", True))
        super().__post_init__(**kwargs)
        check_sizes(self)
        choices = {
            "fusion": FUSION_KINDS,
            "fusion_input": FUSION_INPUTS,
            "word_head": WORD_HEADS,
            "pooling": POOLINGS,
            "image_pooling": POOLINGS,
            "ranking": RANKINGS,
            "layout": LAYOUTS,
        }
        for field, known in choices.items():
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"{field} is {value!r}; choose one of {', '.join(known)}")
        if self.fusion_input == "contrastive" and self.contrastive_width != self.hidden_size:
            raise ValueError(
                "fusion_input `contrastive` needs a space of the fusion's width: contrastive_width "
                f"is {self.contrastive_width}, the fusion's width {self.hidden_size}"
            )
        if self.fusion == "text-layers":
            self._check_text_layers()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"the fusion width {self.hidden_size} cannot be shared by "
                f"{self.num_attention_heads} heads; choose a multiple"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds: without the places that the encoders were loaded from."""
        content = super().to_dict()
        for name in self.sub_configs:
            content[name].pop("_name_or_path", None)
        return content

    def _check_text_layers(self) -> None:
        """Raise ``ValueError`` if a fusion of the text encoder's layers cannot follow upon it."""
        text, own = self.text_config, (self.hidden_size, self.num_attention_heads)
        if not all(hasattr(text, name) for name in ("layer_norm_eps", "intermediate_size")):
            raise ValueError(
                f"the layers of {text.model_type!r} are not those of BERT, so they cannot become "
                "the fusion"
            )
        if own != (needed := (text.hidden_size, text.num_attention_heads)):
            raise ValueError(
                f"a fusion of the text encoder's layers has its width and heads, {needed}; "
                f"hidden_size and num_attention_heads are {own}"
            )
        if self.fusion_input != "separate" or self.layout != "vilta":
            raise ValueError(
                "a fusion of the text encoder's layers reads its states as they are; set "
                "fusion_input to separate and layout to vilta"
            )


def _nested(config: dict | PreTrainedConfig | None, default: str) -> PreTrainedConfig:
    if config is None:
        return AutoConfig.for_model(default)
    if isinstance(config, dict):
        values = dict(config)
        if "model_type" not in values:
            raise ValueError("a nested encoder configuration needs a `model_type`")
        return AutoConfig.for_model(values.pop("model_type"), **values)
    return config


def read_config(place: str | Path, **settings: Any) -> ViltaConfig:
    """Read the configuration of a released model; ``ValueError`` in one line if it cannot be."""
    try:
        with damage_told(place):
            content, _ = PreTrainedConfig.get_config_dict(place)
            kind = content.get("model_type", ViltaConfig.model_type)
            if kind == ViltaConfig.model_type:  # of another transformers would warn and go on
                config = ViltaConfig.from_pretrained(place, **settings)
    except OSError as error:
        raise ValueError(f"{place} cannot be loaded: {reason_of(error)}") from error
    if kind != ViltaConfig.model_type:
        raise ValueError(
            f"{place} holds a model of the kind {kind!r}; name a pre-training run, which takes a "
            "text encoder as --model.text"
        )
    names = [] if config.architectures is None else config.architectures
    if not isinstance(names, list) or not all(str(name).isidentifier() for name in names):
        raise ValueError(f"{place} cannot be loaded: its `architectures` are not class names")
    return config
