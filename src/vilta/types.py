"""The three things that cross module borders, and the names of their dimensions.

Shape legend, used in code and docs alike:

| symbol | meaning                                        |
|--------|------------------------------------------------|
| B      | image-text pairs in a batch                    |
| R      | rows of a fusion call (each: one text, one image) |
| P      | image tokens                                   |
| L      | text tokens, padded to the batch's longest     |
| D      | fusion width                                   |
| V      | vocabulary size                                |
| M      | masked positions in the batch (a flat index into B * L) |
| K      | kept entries of a soft label                   |
| H W    | image height and width in pixels               |
| N      | different images of a batch                    |
| I      | images of one item of a task                   |
| T      | texts of a batch                               |
| A      | answers or labels of a task                    |
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with one of its captions, as the data set hands it to the collator."""

    pixels: UInt8[Tensor, "3 H W"]
    caption: str
    image_id: str
    image_hash: int
    """63 bits of the image's content: sources may use the same ids, and hold the same image."""
    index: int
    """Row of the table; with the epoch and the seed it decides every random choice."""
    epoch: int
    name: str
    """What to call the sample in an error message, e.g. ``flickr8k/train#17``."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``B`` image-text pairs ready for the device. Pixels stay uint8 until the model."""

    pixel_values: UInt8[Tensor, "B 3 H W"]
    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]
    word_ids: Int[Tensor, "B L"]
    """Index of the whole word that a token belongs to; -1 for special tokens and padding."""
    masked_input_ids: Int[Tensor, "B L"]
    masked_positions: Int[Tensor, "M"]
    """Flat index into ``B * L``, ascending; found on the CPU so that no step waits for it."""
    image_ids: Int[Tensor, "B"]
    """Hash of the image's content: two rows with the same value show the same image."""
    caption_ids: Int[Tensor, "B"]
    """Hash of the caption's tokens: two rows with the same value read the same to the model."""
    names: tuple[str, ...]
    """One per row, for error messages."""

    def __len__(self) -> int:
        """Return the number of pairs ``B``."""
        return self.input_ids.shape[0]

    def padded(self, length: int) -> Batch:
        """Return the batch with texts padded to ``length`` tokens, which they may not exceed."""
        old, more = self.input_ids.shape[1], length - self.input_ids.shape[1]
        rows = self.masked_positions.div(old, rounding_mode="floor")
        return replace(
            self,
            input_ids=pad(self.input_ids, (0, more)),
            attention_mask=pad(self.attention_mask, (0, more)),
            word_ids=pad(self.word_ids, (0, more), value=-1),
            masked_input_ids=pad(self.masked_input_ids, (0, more)),
            masked_positions=self.masked_positions + rows * more,
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on ``device``."""
        return _with(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, from which a GPU reads while the program goes on."""
        return _with(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One item of a downstream task: its images, its texts, and what is to be answered."""

    pixels: tuple[UInt8[Tensor, "3 H W"], ...]
    image_keys: tuple[str, ...]
    """What the images are called; the same key is the same image."""
    texts: tuple[str, ...]
    target: Tensor
    """Of any shape that is the same for all items of a task."""
    index: int
    """Row of the table."""
    name: str
    """What to call the item in an error message."""


@dataclass(frozen=True, kw_only=True)
class ExampleBatch:
    """``B`` items with ``I`` images each; ``N`` different images and ``T`` texts in all."""

    pixel_values: UInt8[Tensor, "N 3 H W"]
    """Each image once, however many items ask about it."""
    image_index: Int[Tensor, "B I"]
    """Which of the ``N`` images belong to each item."""
    input_ids: Int[Tensor, "T L"]
    attention_mask: Int[Tensor, "T L"]
    text_to_item: Int[Tensor, "T"]
    """Which item each text belongs to, ascending."""
    targets: Tensor
    """The items' targets, stacked: ``[B, ...]``."""
    rows: Int[Tensor, "B"]
    """Row of each item in its table."""
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of items ``B``."""
        return self.image_index.shape[0]

    def to(self, device: torch.device | str) -> ExampleBatch:
        """Return the batch with every tensor on ``device``."""
        return _with(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> ExampleBatch:
        """Return the batch in pinned memory, from which a GPU reads while the program goes on."""
        return _with(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a task's forward returns: what to minimise, and what to log."""

    total: Float[Tensor, ""]
    metrics: dict[str, Tensor]
    """Detached scalars by name: each loss on its own, and statistics of the step.

    NaN means that there was nothing to count."""
    metric_counts: dict[str, Tensor] = field(default_factory=dict)
    """How many rows a part is the mean of, where these are not all rows of the batch."""


@runtime_checkable
class TrainableTask(Protocol):
    """What the training loop needs of a task (an ``nn.Module``); see ``vilta.tasks.base``."""

    training: bool

    def __call__(self, batch: Any) -> Losses: ...  # noqa: D102
    def after_step(self) -> None: ...  # noqa: D102
    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]: ...  # noqa: D102
    def save_pretrained(self, folder: str) -> None: ...  # noqa: D102
    def float(self) -> Any: ...  # noqa: D102
    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...  # noqa: D102


@runtime_checkable
class SharesRows(Protocol):
    """A task whose loss compares the pairs of a step with each other, over all micro-batches.

    Called with all that the step's micro-batches encode to and the place of its own first pair,
    it computes the loss of its own pairs; called with a batch alone it encodes that itself.
    """

    near: int
    """How many of the encoded tensors, the first ones, are only needed of the same machine."""

    def __call__(  # noqa: D102
        self, batch: Batch, everyone: Sequence[Tensor] | None = None, first: int = 0
    ) -> Losses: ...
    def encode(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return tensors that have as many rows in each micro-batch."""


AnyBatch = TypeVar("AnyBatch", Batch, ExampleBatch)


def _with(batch: AnyBatch, change: Callable[[Tensor], Tensor]) -> AnyBatch:
    changed: dict[str, Any] = {
        f.name: change(getattr(batch, f.name))
        for f in fields(batch)
        if isinstance(getattr(batch, f.name), Tensor)
    }
    return replace(batch, **changed)
