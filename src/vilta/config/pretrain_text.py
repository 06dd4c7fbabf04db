"""Settings of `vilta pretrain-text`: a language model from captions alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from vilta.config.pretrain import OptimizationConfig, RunConfig
from vilta.config.ranges import Count, CountOrZero, Share


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """Captions for a language model."""

    train: str = ""
    """Required. Text file (one caption per line, may be .gz), or image-text pairs whose captions
    are used."""
    val: str = ""
    """Captions for evaluation; training skips them wherever they occur. Empty: 1 % of the training
    captions is held out."""
    max_text_tokens: Count = 50
    """Captions are truncated to this many tokens."""
    bucket_steps: CountOrZero = 0
    """Sort captions by length within windows of this many steps, as in `vilta pretrain`."""
    workers: CountOrZero = 0
    """Loader processes."""


@dataclass(frozen=True, kw_only=True)
class TextModelConfig:
    """The language model: a checkpoint to continue from, or the size of a new BERT."""

    start: str = ""
    """Hub id or folder to continue from (a missing language-model head is tied to the
    embeddings). Empty: a new tokenizer and a new model are trained."""
    vocabulary: Count = 8192
    """Words of the new tokenizer (WordPiece, lower case)."""
    strip_accents: bool = False
    """Take accents and vowel signs off the letters, as uncased BERT does: schön becomes schon."""
    width: Count = 256
    """Width of the new model."""
    layers: Count = 4
    """Layers of the new model."""
    heads: Count = 4
    """Attention heads of the new model."""
    dropout: Share = 0.1
    """Dropout of the new model."""


@dataclass(frozen=True, kw_only=True)
class PretrainTextConfig:
    """Train the language model that serves as text encoder and as frozen teacher."""

    data: TextDataConfig = field(default_factory=TextDataConfig)
    model: TextModelConfig = field(default_factory=TextModelConfig)
    mask_rate: Share = 0.15
    """Share of the words that are masked, 80/10/10 mask / random / keep (BERT)."""
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(
            steps=2000, batch_size=256, lr=5e-4, encoder_lr_multiplier=1.0
        )
    )
    run: RunConfig = field(default_factory=lambda: RunConfig(selection_metric="text/top1"))
