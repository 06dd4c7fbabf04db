"""Settings of `vilta pretrain`: frozen dataclasses whose field docstrings are their help.

Values come from the defaults here, then a YAML file, then flags. Numbers taken from a paper name
it; all others are our choice. The paper's abstract (arXiv 2308.16689) states no settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vilta.config.ranges import (
    BatchSize,
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
)

FusionKind = Literal["co-attention", "cross-attention", "text-layers"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training data, and how an image becomes a tensor."""

    train: str = ""
    """Required. Training pairs: a folder packed by `vilta pack`, any source that it reads, a YAML
    file that mixes several with one line `path: weight` each, or `stream:` followed by shards that
    are read during training, such as `stream:s3://bucket/cc12m/*.tar`."""
    val: str = ""
    """Validation pairs; checkpoints are chosen on these. Empty: no validation during training."""
    image_size: Count = 224
    """Side of the square that the model sees, in pixels."""
    max_text_tokens: Count = 50
    """Captions are truncated to this many tokens (50: METER, arXiv 2111.02387)."""
    augmentation: Literal["none", "crop", "crop-flip", "crop-randaugment"] = "none"
    """Training images: `none` resizes and crops the centre; `crop` is a random resized crop;
    `crop-flip` also mirrors half of them (off by default: captions mention left and right);
    `crop-randaugment` adds the operations of RandAugment that leave colours and captions intact."""
    min_crop: PositiveShare = 0.5
    """Smallest area of a random crop, as a share of the image."""
    bucket_steps: CountOrZero = 0
    """Sort samples by caption length within windows of this many steps before cutting them into
    batches, which reduces padding; 0: off. Try 50. To go on with another number of processes,
    keep `optimization.batch_size` and change `accumulate`; other batches are refused."""
    lanes: Count = 64
    """Of a stream: how many shards are read side by side; at most as many as there are. Where
    lanes / mixed_lanes is a multiple of processes x accumulate x workers, each shard is read by one
    of them, otherwise by several. A run goes on with the number that it began with."""
    mixed_lanes: Count = 4
    """Of a stream: how many lanes a micro-batch draws from, so that it is not all of one shard;
    lowered to a divisor of the lanes and of the batch size."""
    workers: CountOrZero = 2
    """Loader processes. The batches are the same for any number of them."""
    cache: bool = False
    """Keep decoded images in the memory of each loader process, 4 bytes per pixel: for small
    data."""
    strict: bool = False
    """Stop at the first unusable sample instead of skipping or replacing it."""
    caption_noise: Share = 0.0
    """Share of the training images that get the captions of another one, to measure how much a
    method minds: which, follows from the seed. Not for streams."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the encoders come from and how they are fused."""

    image: str = "openai/clip-vit-base-patch16"
    """Image encoder: hub id, local folder, or path of a config.json (random weights);
    `demo-image` is the small one of the demo."""
    text: str = "FacebookAI/roberta-base"
    """Text encoder with its language-model head: hub id, local folder or config.json."""
    start: str = ""
    """A run, or its released model, whose weights the training begins with, step 0 of a schedule of
    its own: more data after less, photos after scenes. With other settings of the fusion, only
    encoders and contrast are taken, and a new fusion begins (not from or to `text-layers`, where
    the text encoder is another one as well). Empty: the encoders' weights."""
    fusion: FusionKind = "cross-attention"
    """`cross-attention`: text reads the image (ALBEF, arXiv 2107.07651); `co-attention`: two
    streams that read each other (METER, arXiv 2111.02387), at twice the cost: on scenes worse after
    equal seconds; `text-layers`: the upper layers of the text encoder (BERT, RoBERTa and the like)
    are the fusion, with cross-attention put in, and their width and heads are its own (ALBEF)."""
    fusion_layers: Count = 6
    """Layers of the fusion encoder (6: METER and ALBEF); `text-layers` takes them off the text
    encoder, which needs more of them."""
    fusion_width: Count = 768
    """Width D of the fusion encoder (768: METER and ALBEF)."""
    fusion_heads: Count = 12
    """Attention heads of the fusion encoder."""
    fusion_input: Literal["separate", "contrastive"] = "separate"
    """What the fusion reads: the encoders' states through projections of its own (`separate`), or
    through those by which contrast compares (`contrastive`, our addition): then an image's places
    and the words for them lie close together, and the attention between the two starts there. For
    a new fusion over trained contrast (`start`); from the beginning it learns worse. It needs
    `contrastive_width` equal to `fusion_width`."""
    word_head: Literal["language_model", "separate"] = "language_model"
    """Masked words with the image: `language_model` is the text encoder's own head, on its states
    plus what the fusion adds (nothing at first; `text-layers`: on the fused states themselves);
    `separate` a new head on the fused states."""
    pooling: Literal["first", "mean"] = "first"
    """How a text is pooled into one vector for matching and contrast: its first token, or the mean.
    For contrast, images are always averaged."""
    image_pooling: Literal["first", "mean"] = "mean"
    """What matching reads of co-attention's image stream. `first`, as METER, is much cheaper: the
    last layer computes one position of it in each row."""
    dropout: Share = 0.1
    """Dropout in the fusion encoder."""
    initializer_range: Positive = 0.02
    """Standard deviation of the fusion's initial weights (0.02: BERT, 768 wide); a narrow fusion
    learns faster with a larger one."""
    contrastive_width: Count = 256
    """Width of the space in which image and text are compared (256: ALBEF)."""
    freeze: tuple[Literal["image", "text"], ...] = ()
    """Encoders to keep frozen; with `text-layers`, `text` is what lies below the fusion, and the
    head for words."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Pre-training objectives; docs/method.md explains each."""

    mask_rate: Share = 0.15
    """Share of the words of a caption that are masked (BERT, arXiv 1810.04805); at least one."""
    mask_scheme: Literal["mask", "80-10-10"] = "mask"
    """`mask`: every chosen word becomes the mask token; `80-10-10`: BERT's mask / random / keep."""
    content_weight: Positive = 4.0
    """How many times as likely a content word is masked as a stop-word or punctuation mark."""
    soft_labels: Literal["none", "language_model", "momentum", "shuffled"] = "language_model"
    """Teacher of masked words: `language_model` is ViLTA's frozen one, `momentum` is ALBEF's
    moving average of the model itself, `none` is the one-hot baseline (METER). `shuffled` gives the
    probabilities of the frozen one to random words: label smoothing of equal entropy, a control."""
    teacher: str = ""
    """Folder or hub id of the frozen language model. Empty: the text encoder's starting point."""
    teacher_view: Literal["masked", "clean"] = "masked"
    """What the teacher reads: the masked caption or the clean one."""
    alpha: Share = 0.5
    """Weight of the soft labels against the one-hot ones, 0 to 1 (ALBEF: 0.4)."""
    alpha_ramp_steps: CountOrZero = 0
    """Steps after `mlm_start` over which alpha rises linearly from 0; 0: constant."""
    temperature: Positive = 1.0
    """Softmax temperature tau of the distillation."""
    top_k: CountOrZero = 0
    """Keep the teacher's K largest probabilities and renormalise; 0: all of them."""
    momentum: Share = 0.995
    """Decay of the moving average with `soft_labels: momentum` (0.995: ALBEF)."""
    negatives: Literal["grounded", "soft_label", "none", "off"] = "grounded"
    """Filter of the synthesised negatives: `grounded` rejects words that the image-conditioned
    model finds plausible (the floor that distillation puts under them is subtracted), `soft_label`
    words that the teacher finds plausible, `none` only the original word and its inflections;
    `off` synthesises nothing (METER, ALBEF)."""
    filter_ratio: Positive = 0.1
    """A word is rejected if its filter probability reaches this fraction of the original's."""
    teacher_filter_ratio: NotNegative = 0.01
    """`grounded` also rejects words that the teacher, reading the clean caption, finds this
    fraction as probable as the original: synonyms, which a model that has memorised its captions no
    longer finds plausible. 0: does not ask the teacher, which spares its pass."""
    negative_generator: Literal["current", "frozen"] = "current"
    """Whose expectations the negatives are sampled from: the text encoder as it is trained (ViLTA),
    or the frozen teacher."""
    candidates: Count = 20
    """Negatives are sampled from this many of the language model's most probable allowed words."""
    min_p: Share = 0.1
    """A replacement must have at least this fraction of the most probable word's probability in
    the text; keeps negatives well-formed. 0: no bound."""
    negative_temperature: Positive = 1.0
    """Softmax temperature of the sampling; lower values prefer the most probable words."""
    max_changes: Count = 1
    """Maximum number of words that a negative changes."""
    mlm_start: CountOrZero = 0
    """Steps with the contrastive loss alone and the text encoder frozen, before masked language
    modelling begins. They are cheap, and a randomly initialised image encoder needs them."""
    mlm_weight: NotNegative = 1.0
    """Weight of masked language modelling with the image."""
    text_mlm_weight: NotNegative = 0.1
    """Weight of text-only masked language modelling, which keeps the synthesis model trained."""
    itm_weight: NotNegative = 1.0
    """Weight of image-text matching."""
    itm_start: CountOrZero = 0
    """Steps before matching begins. Until then a step costs about half, while masked words and
    contrast train the image encoder."""
    in_batch_negatives: Literal["both", "one"] = "both"
    """In-batch negatives for each true pair: `both` another text and another image (ALBEF, arXiv
    2107.07651), or `one` of the two at random, which leaves a quarter to a third fewer rows to
    fuse."""
    hardness: NotNegative = 1.0
    """How strongly contrastive similarity guides the sampling of in-batch negatives: similarity is
    multiplied by this before the softmax. 0: uniform; 1: ALBEF's sampling."""
    hardness_ramp_steps: CountOrZero = 0
    """Steps after `itm_start` over which `hardness` rises linearly from 0; 0: constant. On photos,
    matching has to start from easy negatives."""
    synthesised_share: Share = 0.5
    """Weight of a pair's synthesised negative within the no-match half of the matching loss; its
    in-batch negatives get the rest, and everything where nothing could be synthesised."""
    matching_mean: Literal["pairs", "rows"] = "pairs"
    """`pairs`: a pair's negatives together weigh as much as the pair; `rows`: every row of the
    matching loss weighs the same (ALBEF)."""
    itc_weight: NotNegative = 1.0
    """Weight of the image-text contrastive loss; 0 disables it (METER)."""
    itc_targets: Literal["pairs", "momentum"] = "pairs"
    """What contrast learns: `pairs`, which image and text belong together; `momentum`, that mixed
    with `alpha` of what the moving average of the model finds, against its embeddings (ALBEF)."""
    queue_size: CountOrZero = 0
    """Past embeddings of the moving average that `itc_targets: momentum` compares with as well
    (ALBEF: 65536)."""

    def needs_teacher(self) -> bool:
        """Whether training needs the frozen language model."""
        filters = self.negatives == "soft_label" or (
            self.negatives == "grounded" and self.teacher_filter_ratio > 0
        )
        writes = self.negatives != "off" and self.negative_generator == "frozen"
        return self.soft_labels in ("language_model", "shuffled") or filters or writes

    def check(self) -> None:
        """Raise ``ValueError`` for values that do not go together."""
        if self.queue_size and self.itc_targets != "momentum":
            raise ValueError("objective.queue_size is for itc_targets: momentum; set it to 0")
        if self.mlm_start > 0 and self.itc_weight == 0:
            raise ValueError("objective.mlm_start needs contrast: set itc_weight above 0")
        if self.mlm_start > self.itm_start:
            raise ValueError(
                f"objective.itm_start is {self.itm_start}; matching needs masked words, so set it "
                f"to mlm_start ({self.mlm_start}) or more"
            )
        at_once = self.mlm_weight + self.text_mlm_weight + self.itc_weight
        if at_once == 0 and (self.itm_weight == 0 or self.itm_start > 0):
            raise ValueError(
                "objective: no loss has a weight in the first step; set one of mlm_weight, "
                "text_mlm_weight and itc_weight above 0, or itm_weight with itm_start 0"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """The optimizer, learning rates and schedule."""

    steps: Count = 10_000
    """Optimizer steps of the whole run."""
    batch_size: BatchSize = 64
    """Pairs per forward pass and device. `auto`: the largest power of two that fits into memory,
    found by taking steps before the run starts; the run's config.yaml holds the number."""
    accumulate: Count = 1
    """Gradient accumulation: forward passes per device and step. The global batch is batch_size x
    accumulate x devices; contrast compares all of it, at the price of encoding twice."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: orthogonalised momentum for the matrices inside the network (arXiv 2502.16982), AdamW
    for the rest. Learns faster from scratch; for pre-trained encoders AdamW is the safe choice."""
    lr: Positive = 1e-4
    """Peak learning rate of the fusion encoder."""
    encoder_lr_multiplier: NotNegative = 0.2
    """Learning rate of the two encoders relative to `lr` (METER: a fifth of the fusion's)."""
    head_lr_multiplier: NotNegative = 1.0
    """Learning rate of the heads relative to `lr`."""
    warmup: Share = 0.1
    """Fraction of the steps over which the learning rate rises linearly from 0 (METER: 0.1)."""
    schedule: Literal["linear", "cosine", "constant", "constant-cooldown"] = "linear"
    """How the learning rate decays after the warm-up (METER: linear). `constant-cooldown` stays
    constant and falls linearly to 0 at the end (warmup-stable-decay): until then a run does not
    depend on how long it will be, so that runs can be compared on their way."""
    cooldown: Share = 0.2
    """Fraction of the steps over which `constant-cooldown` falls."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay; none on biases and norms (METER: 0.01)."""
    beta2: Share = 0.98
    """AdamW second moment decay (METER: 0.98)."""
    clip: NotNegative = 1.0
    """Maximum gradient norm; 0: no clipping."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """`auto` measures both on this machine with products of the model's own sizes and takes the
    faster; a resumed run keeps the format it started with. On a GPU float32 means TF32."""
    compile: bool = False
    """Use torch.compile: the first steps take minutes, and no gain was seen on a CPU or a GPU."""
    shard: bool = False
    """Split trained weights, gradients and AdamW's moments among the processes (FSDP2), for models
    that are large beside a device's memory: 4 + 16 / N bytes a weight on each of N in place of 16.
    A run may be resumed with it or without."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that do not go together."""
        if self.shard and (self.compile or self.optimizer == "muon"):
            other = "compile" if self.compile else "optimizer: muon"
            raise ValueError(f"optimization.shard does not go together with {other}; set one off")

    @property
    def samples_at_once(self) -> int:
        """``batch_size``, a number by now; ``ValueError`` where `auto` is not looked for."""
        if not isinstance(self.batch_size, int):
            raise ValueError("optimization.batch_size is auto; it must be a number here")
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run writes, and how often."""

    out: str = ""
    """Required. Folder of the run: checkpoints, metrics.jsonl, TensorBoard events, the
    released model."""
    seed: int = 0
    """Seed of all randomness."""
    resume: Literal[False, True, "auto"] = False
    """Continue from the last complete checkpoint in `out`; `auto` starts the run if there is none
    yet, so that one command both starts and continues it. A run goes on with the settings that it
    is given, such as another learning rate."""
    overwrite: bool = False
    """Start over if `out` already contains a run; the old run is deleted."""
    accept_other_data: bool = False
    """Resume even if the training data differs from what the run was started with."""
    log_every: CountOrZero = 10
    """Steps between two lines of metrics.jsonl."""
    evaluate_every: CountOrZero = 0
    """Steps between two evaluations on `data.val`; 0: only at the end."""
    save_every: CountOrZero = 500
    """Steps between two checkpoints; the last step always writes one."""
    save_minutes: NotNegative = 5.0
    """Minutes after which a checkpoint is written in any case; 0: only by `save_every`."""
    keep: Count = 2
    """Number of newest checkpoints to keep, in addition to the best one."""
    selection_metric: str = "retrieval/mean_recall"
    """Evaluation metric whose maximum marks the best checkpoint."""
    patience: CountOrZero = 0
    """Stop after this many evaluations without an improvement of `selection_metric`; 0: never."""
    release: Literal["best", "last"] = "best"
    """Which weights become the released model: of the best evaluation, or of the last step, where a
    choice on the validation data would spoil a comparison; then nothing stops it early."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the accelerator if there is one."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pre-train image encoder, text encoder and fusion on image-text pairs."""

    epochs: NotNegative = 0.0
    """Passes over the training data; with 0, or where --optimization.steps alone is given, steps
    count."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)
