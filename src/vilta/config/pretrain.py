"""Every setting of the verbs that train: frozen dataclasses whose field docstrings are their help.

Values come from the defaults here, then a YAML file, then flags. Numbers taken from a paper name
it; all others are our choice. The paper's abstract (arXiv 2308.16689) states no settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, and how an image becomes a tensor."""

    train: str = ""
    """Required. Training pairs: a folder packed by `vilta pack`, any source that it reads, a YAML
    file that mixes several, with a line `path: weight` for each, or `stream:` and shards that are
    read on the way, such as `stream:s3://bucket/cc12m/*.tar`."""
    val: str = ""
    """Validation pairs; checkpoints are chosen on these. Empty: no validation during training."""
    image_size: int = 224
    """Side of the square that the model sees, in pixels."""
    max_text_tokens: int = 50
    """Captions are cut after this many tokens (50: METER, arXiv 2111.02387)."""
    augmentation: Literal["none", "crop", "crop-flip", "crop-randaugment"] = "none"
    """Training images: `none` resizes and crops the centre; `crop` is a random resized crop;
    `crop-flip` also mirrors half of them (off by default: captions say left and right);
    `crop-randaugment` also bends, shifts and sharpens them, colours kept (RandAugment)."""
    min_crop: float = 0.5
    """Smallest area of a random crop, as a share of the image."""
    bucket_steps: int = 0
    """Sort captions by length within the samples of so many steps before they are cut into batches,
    so that less padding is computed; 0: off. Try 50."""
    workers: int = 2
    """Loader processes. The batches are the same for any number of them."""
    cache: bool = False
    """Keep decoded images in the memory of each loader process, 4 bytes a pixel: for small data."""
    strict: bool = False
    """Stop at the first sample that cannot be used instead of leaving it out or replacing it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the encoders come from and how they are fused."""

    image: str = "openai/clip-vit-base-patch16"
    """Image encoder: hub id, local folder, or path of a config.json (random weights);
    `demo-image` is the small one of the demo."""
    text: str = "FacebookAI/roberta-base"
    """Text encoder with its language-model head: hub id, local folder or config.json."""
    fusion: Literal["co-attention", "cross-attention"] = "co-attention"
    """`co-attention`: two streams that read each other (METER, arXiv 2111.02387);
    `cross-attention`: text reads the image (ALBEF, arXiv 2107.07651), about half the cost."""
    fusion_layers: int = 6
    """Layers of the fusion encoder (6: METER and ALBEF)."""
    fusion_width: int = 768
    """Width D of the fusion encoder (768: METER and ALBEF)."""
    fusion_heads: int = 12
    """Attention heads of the fusion encoder."""
    word_head: Literal["language_model", "separate"] = "language_model"
    """Masked words with the image: `language_model` is the text encoder's own head, on its states
    plus what the fusion adds (nothing at first); `separate` a new head on the fused states."""
    pooling: Literal["first", "mean"] = "first"
    """How a text becomes one vector for matching and contrast: its first token or the mean. Images
    are always averaged."""
    dropout: float = 0.1
    """Dropout in the fusion encoder."""
    initializer_range: float = 0.02
    """Standard deviation of the fusion's new weights (0.02: BERT, 768 wide); a narrow fusion
    learns faster with more."""
    contrastive_width: int = 256
    """Width of the space in which image and text are compared (256: ALBEF)."""
    freeze: tuple[Literal["image", "text"], ...] = ()
    """Encoders that are not trained."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Pre-training objectives; docs/method.md explains each."""

    mask_rate: float = 0.15
    """Share of the words of a caption that are masked (BERT, arXiv 1810.04805); at least one."""
    mask_scheme: Literal["mask", "80-10-10"] = "mask"
    """`mask`: every chosen word becomes the mask token; `80-10-10`: BERT's mask / random / keep."""
    content_weight: float = 4.0
    """How much likelier a content word is masked than a stop-word or a punctuation mark."""
    soft_labels: Literal["none", "language_model", "momentum"] = "language_model"
    """Teacher of masked words: `language_model` is ViLTA's frozen one, `momentum` is ALBEF's
    moving average of the model itself, `none` is the one-hot baseline (METER)."""
    teacher: str = ""
    """Folder or hub id of the frozen language model. Empty: the text encoder's starting point."""
    teacher_view: Literal["masked", "clean"] = "masked"
    """What the teacher reads: the masked caption or the clean one."""
    alpha: float = 0.5
    """Weight of the soft labels against the one-hot ones, 0 to 1 (ALBEF: 0.4)."""
    alpha_ramp_steps: int = 0
    """Steps over which alpha rises linearly from 0; 0: constant."""
    temperature: float = 1.0
    """Softmax temperature tau of the distillation."""
    top_k: int = 0
    """Keep the teacher's K largest probabilities and renormalise; 0: all of them."""
    momentum: float = 0.995
    """Decay of the moving average with `soft_labels: momentum` (0.995: ALBEF)."""
    negatives: Literal["grounded", "soft_label", "none", "off"] = "grounded"
    """Filter of the synthesised negatives: `grounded` rejects words that the image-conditioned
    model finds plausible (what the soft labels taught it is left out), `soft_label` those that the
    teacher does, `none` only the original word and its inflections; `off` synthesises nothing
    (METER, ALBEF)."""
    filter_ratio: float = 0.1
    """A word is no negative if its filter probability reaches this share of the original's."""
    candidates: int = 20
    """Negatives are drawn from this many of the language model's likeliest allowed words."""
    min_p: float = 0.1
    """A negative's word must be this share as likely to the text as its likeliest word; keeps
    negatives well-formed. 0: no bound."""
    negative_temperature: float = 1.0
    """Softmax temperature of that draw; lower keeps to the likeliest words."""
    max_changes: int = 1
    """Most words of a caption that a negative changes."""
    mlm_start: int = 0
    """Steps of contrast alone, the text encoder frozen, before masked language modelling begins.
    They are cheap, and an image encoder that starts from random weights learns to see in them."""
    mlm_weight: float = 1.0
    """Weight of masked language modelling with the image."""
    text_mlm_weight: float = 0.1
    """Weight of text-only masked language modelling, which keeps the synthesiser alive."""
    itm_weight: float = 1.0
    """Weight of image-text matching."""
    itm_start: int = 0
    """Steps before matching begins. Until then a step costs about half, and masked words and
    contrast teach the image encoder what matching needs to look at."""
    in_batch_negatives: Literal["both", "one"] = "both"
    """Negatives of the batch for each true pair: `both` another text and another image (ALBEF,
    arXiv 2107.07651), or `one` of the two by a coin, with a quarter to a third fewer rows to
    fuse."""
    hardness: float = 1.0
    """How strongly contrastive similarity guides the draw of in-batch negatives: it is multiplied
    by this before its softmax. 0: uniform; 1: as likely as contrast takes them for true (ALBEF)."""
    hardness_ramp_steps: int = 0
    """Steps after `itm_start` over which `hardness` rises linearly from 0; 0: constant. Matching
    learns to read a photo from easy negatives first."""
    synthesised_share: float = 0.5
    """Share of the synthesised rows in the no-match half of the matching loss; the in-batch
    negatives have the rest."""
    itc_weight: float = 1.0
    """Weight of image-text contrast; 0 switches it off (METER)."""

    def check(self) -> None:
        """Raise ``ValueError`` for a value outside of its range."""
        for name in ("mask_rate", "alpha", "momentum", "min_p", "synthesised_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; choose 0 to 1")
        for name in ("temperature", "negative_temperature", "filter_ratio", "content_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; it must be above 0")
        if self.mlm_start > 0 and self.itc_weight == 0:
            raise ValueError("objective.mlm_start needs contrast: set itc_weight above 0")
        if self.mlm_start > self.itm_start:
            raise ValueError(
                f"objective.itm_start is {self.itm_start}; matching needs masked words, so set it "
                f"to mlm_start ({self.mlm_start}) or more"
            )
        for name in ("candidates", "max_changes"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("hardness", "hardness_ramp_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """The optimizer, its rates and its schedule."""

    steps: int = 10_000
    """Optimizer steps of the whole run."""
    batch_size: int = 64
    """Pairs in one forward pass on one device."""
    accumulate: int = 1
    """Forward passes per device and step; the global batch is batch_size x accumulate x devices."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: orthogonalised momentum for the matrices inside the network (arXiv 2502.16982), AdamW
    for the rest. Learns faster from scratch; for pre-trained encoders AdamW is the safe choice."""
    lr: float = 1e-4
    """Peak learning rate of the fusion encoder."""
    encoder_lr_multiplier: float = 0.2
    """Rate of the two encoders relative to `lr` (METER trains fusion 5 times faster)."""
    head_lr_multiplier: float = 1.0
    """Rate of the heads relative to `lr`."""
    warmup: float = 0.1
    """Share of the steps over which the rate rises linearly from 0 (METER: 0.1)."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up (METER: linear)."""
    weight_decay: float = 0.01
    """Decoupled weight decay; none on biases and norms (METER: 0.01)."""
    beta2: float = 0.98
    """AdamW second moment decay (METER: 0.98)."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """`auto` measures both on this machine with products of the model's own sizes and takes the
    faster; a resumed run goes on with what it began with."""
    compile: bool = False
    """torch.compile the task: the first steps take long, as they compile it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run writes, and how often."""

    out: str = ""
    """Required. Folder of the run: checkpoints, metrics.jsonl, TensorBoard events, the
    released model."""
    seed: int = 0
    """Decides everything that is random."""
    resume: Literal[False, True, "auto"] = False
    """Go on from the last whole checkpoint in `out`; `auto`: start the run if there is none yet,
    so that one command both starts it and goes on with it."""
    overwrite: bool = False
    """Start anew although `out` holds a run; the old one is deleted."""
    accept_other_data: bool = False
    """Resume although the training data are not those that the run was started with."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: int = 0
    """Steps between two evaluations on `data.val`; 0: only at the end."""
    save_every: int = 500
    """Steps between two checkpoints; the last step always writes one."""
    keep: int = 2
    """How many of the newest checkpoints are kept, beside the best."""
    selection_metric: str = "retrieval/mean_recall"
    """Evaluation figure whose largest value marks the best checkpoint."""
    patience: int = 0
    """Stop after this many evaluations without a better `selection_metric`; 0: never."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train image encoder, text encoder and fusion on image-text pairs."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """Captions for a language model."""

    train: str = ""
    """Required. Text file (one caption a line, may be .gz) or image-text pairs whose captions
    are taken."""
    val: str = ""
    """Captions to measure on, left out of training wherever they stand in it. Empty: a hundredth
    of the training captions is set aside."""
    max_text_tokens: int = 50
    """Captions are cut after this many tokens."""
    bucket_steps: int = 0
    """Sort captions by length within the samples of so many steps, as in `vilta pretrain`."""
    workers: int = 0
    """Loader processes."""


@dataclass(frozen=True, kw_only=True)
class TextModelConfig:
    """The language model: a checkpoint to continue from, or the size of a new BERT."""

    start: str = ""
    """Hub id or folder to continue from (a missing language-model head is tied to the
    embeddings). Empty: a new tokenizer and a new model are trained."""
    vocabulary: int = 8192
    """Words of the new tokenizer (WordPiece, lower case)."""
    strip_accents: bool = False
    """Take accents and vowel signs off the letters, as uncased BERT does: schön becomes schon."""
    width: int = 256
    """Width of the new model."""
    layers: int = 4
    """Layers of the new model."""
    heads: int = 4
    """Attention heads of the new model."""
    dropout: float = 0.1
    """Dropout of the new model."""


@dataclass(frozen=True, kw_only=True)
class PretrainTextConfig:
    """Train the language model that serves as text encoder and as frozen teacher."""

    data: TextDataConfig = field(default_factory=TextDataConfig)
    model: TextModelConfig = field(default_factory=TextModelConfig)
    mask_rate: float = 0.15
    """Share of the words that are masked, 80/10/10 mask / random / keep (BERT)."""
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(
            steps=2000, batch_size=256, lr=5e-4, encoder_lr_multiplier=1.0
        )
    )
    run: RunConfig = field(default_factory=lambda: RunConfig(selection_metric="text/top1"))
