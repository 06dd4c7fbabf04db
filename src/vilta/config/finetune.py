"""Settings of `vilta finetune`, in the form of ``config``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vilta.config.pretrain import DataConfig, OptimizationConfig, RunConfig
from vilta.config.ranges import CountOrZero, NotNegative
from vilta.config.tools import From


@dataclass(frozen=True, kw_only=True)
class TaskDataConfig(DataConfig):
    """The items of a task, and their images."""

    train: str = ""
    """Required. Training items in a layout that the task reads, several joined by `+`; see
    docs/tasks.md."""
    val: str = ""
    """Validation items; checkpoints are chosen on these, so they must not be the test set."""
    images: str = ""
    """The images: a folder, any source of pairs that `vilta pack` reads, or `scenes:SIZE`. Empty:
    next to the items."""
    image_size: CountOrZero = 0
    """Side of the square that the model sees, in pixels; 0: as in the run it starts from."""
    max_text_tokens: CountOrZero = 0
    """Texts are truncated to this many tokens; 0: as in the run it starts from."""
    blind: bool = False
    """Replace every image by a grey one: the text-only baseline."""
    accept_overlap: bool = False
    """Train even if validation images are among the training images."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Settings of a task; a task that has some extends this class, beside the task."""

    def held_out(self) -> TaskSettings:
        """Return the settings that held-out items are read with; the same by default."""
        return self


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune a pre-trained run on a task."""

    task: str = ""
    """Name of the task; on the command line it comes first."""
    start: From = ""
    """Required. Pre-trained run to start from (`start` in a YAML file), or a folder with a
    released model."""
    scratch: bool = False
    """Start from random weights of the same architecture, to measure what pre-training gained."""
    freeze: tuple[Literal["image", "text"], ...] = ()
    """Encoders to keep as pre-training left them. Without the image encoder's backward pass a step
    is much cheaper."""
    epochs: NotNegative = 10.0
    """Passes over the training items (10: METER); with 0, or where optimization.steps alone is
    given, steps count."""
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    settings: TaskSettings = field(default_factory=TaskSettings)
    """Settings of this task alone; `vilta finetune TASK --help` lists them."""
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(lr=5e-5, head_lr_multiplier=5.0)
    )
    run: RunConfig = field(
        default_factory=lambda: RunConfig(selection_metric="", save_every=0, keep=1, log_every=20)
    )
