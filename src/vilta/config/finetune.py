"""Settings of `vilta finetune`, in the form of ``config``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from vilta.config.pretrain import DataConfig, OptimizationConfig, RunConfig
from vilta.config.tools import From


@dataclass(frozen=True, kw_only=True)
class TaskDataConfig(DataConfig):
    """What is asked, and about which images."""

    train: str = ""
    """Training items in a layout that the task reads, several joined by `+`; see docs/tasks.md."""
    val: str = ""
    """Validation items; checkpoints are chosen on these, so they must not be the test set."""
    images: str = ""
    """Where the images lie: a folder, any source of pairs that `vilta pack` reads, or
    `scenes:SIZE`. Empty: beside the items."""
    image_size: int = 0
    """Side of the square that the model sees, in pixels; 0: that of the run it starts from."""
    max_text_tokens: int = 0
    """Texts are cut after this many tokens; 0: the limit of the run it starts from."""
    blind: bool = False
    """Show a grey image in place of each: the baseline that knows the text alone."""
    accept_overlap: bool = False
    """Train although validation images are among the training images."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Settings that only some of the tasks read."""

    min_answers: int = 9
    """vqa: answers given less often in training are left out (9 leaves the usual 3,129 of
    VQAv2's train2014 and val2014 together, fewer of train2014 alone)."""
    premise: bool = False
    """snli-ve: put the premise caption before the hypothesis."""
    top_k: int = 32
    """retrieval: candidates of the contrastive stage that matching ranks again."""
    full: bool = False
    """retrieval: score every pair by matching, as methods without a first stage do."""
    hardness: float = 1.0
    """retrieval: how strongly similarity guides the draw of negatives in the batch: 0 uniform, 1
    as likely as contrast takes them for true (ALBEF)."""
    folds: int = 1
    """retrieval: mean over so many parts of the images (COCO 1k: 5 of its 5,000 test images)."""
    paraphrases: float = 1.0
    """fine-grained: weight of paraphrases among the true captions (0: trained on edits alone)."""
    edit_kinds: tuple[Literal["colour", "shape", "size", "texture", "relation", "count"], ...] = ()
    """fine-grained: in training, a caption of the built-in scenes gets a wrong text for each of
    these kinds of words that it has, beside the one that changes any word."""

    def held_out(self) -> TaskConfig:
        """Return the settings that held-out items are read with: nothing is added to those."""
        return replace(self, edit_kinds=())


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune a pre-trained run on a task."""

    task: str = ""
    """Name of the task; on the command line it stands before the flags."""
    start: From = ""
    """Pre-trained run to start from (`start` in a YAML file), or a folder with a released model."""
    scratch: bool = False
    """Start from random weights of the same architecture: what did pre-training give?"""
    epochs: float = 10.0
    """Passes over the training items (10: METER); 0: `optimization.steps` counts."""
    data: TaskDataConfig = field(default_factory=TaskDataConfig)
    settings: TaskConfig = field(default_factory=TaskConfig)
    optimization: OptimizationConfig = field(
        default_factory=lambda: OptimizationConfig(lr=5e-5, head_lr_multiplier=5.0)
    )
    run: RunConfig = field(
        default_factory=lambda: RunConfig(best_metric="", save_every=0, keep=1, log_every=20)
    )
