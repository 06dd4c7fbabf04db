"""What keeps metrics honest: which images a run has been trained, chosen or measured on."""

from __future__ import annotations

from pathlib import Path

from vilta.config.finetune import FinetuneConfig
from vilta.config.pretrain import PretrainConfig, RunConfig
from vilta.config.tools import EvaluateConfig
from vilta.data.examples import Examples, PairItems, read_pairs, shared_images
from vilta.data.sources.base import MANIFEST
from vilta.screen import counted
from vilta.tasks.registry import find_task

CHOSEN = "validation: the checkpoint was chosen on these; not a test figure"
"""The role of data that hold images of the validation set, all or some."""
UNCHOSEN = "validation: the last step was released, no checkpoint was chosen on these"
"""The role of such data where ``run.release`` is ``last``."""
CALIBRATED = f"{UNCHOSEN}; match probabilities were calibrated on them"
TRAINED = "trained on these images; not a test figure"
"""The role of data that hold images of the training set, where that is accepted."""
UNCOMPARED = "test, as far as can be told: the training data cannot be read"
"""The role where images in both could not be looked for."""


def refuse_overlap(
    config: FinetuneConfig, items: Examples | PairItems, held_out: Examples | PairItems
) -> None:
    """Refuse validation images that are trained on; ``data.accept_overlap`` lets them pass."""
    shared = shared_images(items, held_out)
    if shared and not config.data.accept_overlap:
        raise ValueError(
            f"{counted(len(shared), 'image')} of {held_out.name} "
            f"{'is' if len(shared) == 1 else 'are'} also in {items.name}, such as "
            f"{shared[0]}: metrics on it would say nothing about unseen images; choose another "
            "split, or pass --data.accept-overlap"
        )


def role_of(
    items: Examples | PairItems,
    trained: FinetuneConfig | None,
    config: EvaluateConfig,
    run_folder: str,
) -> str:
    """Say what the data are to the run: ``zero-shot``, ``validation`` or ``test``.

    Raises ``ValueError`` if the run was trained on images of them, unless that is accepted.
    """
    if trained is None:
        return "zero-shot: the run was not fine-tuned"
    data, settings = trained.data, trained.settings
    validation = _validation(trained.run, items)
    if data.val and whole_path(config.data) == whole_path(data.val):
        return validation
    reader = find_task(trained.task)  # not always the task that is evaluated
    try:
        seen = reader.read(data.train, data.images, settings)
        chosen = reader.read(data.val, data.images, settings.held_out()) if data.val else None
    except ValueError as error:
        return f"{UNCOMPARED} ({error})"
    shared = shared_images(seen, items)
    if shared and not config.accept_trained:
        raise ValueError(
            f"{run_folder} was trained on {len(shared)} of these images, such as {shared[0]}; "
            "choose data that it has not seen, or pass --accept-trained"
        )
    if shared:
        return TRAINED
    return validation if chosen is not None and shared_images(chosen, items) else "test"


def role_in_pretraining(items: PairItems, trained: PretrainConfig) -> str:
    """Say what pairs are to a pre-training run, which may be measured on any: it refuses none.

    Images are looked at where they are packed, and so at hand in a moment.
    """
    train, val = trained.data.train, trained.data.val
    validation = _validation(trained.run, items)
    for place, role in ((train, TRAINED), (val, validation)):
        if place and whole_path(items.name) == whole_path(place):
            return role
    if _is_packed(train) and (shared := shared_images(read_pairs(train, ""), items)):
        return f"{len(shared):,} of these were trained on; not a test figure"
    if _is_packed(val) and shared_images(read_pairs(val, ""), items):
        return validation
    told = ", as far as can be told: only packed training data are looked through"
    return "test" + told * (not _is_packed(train))


def whole_path(source: str) -> str:
    """Return the name of a source of data, however its path is given, by its whole path."""
    place, mark, query = source.partition("?")  # a source may name a split: data.json?split=val
    return f"{Path(place).resolve()}{mark}{query}"


def _validation(run: RunConfig, items: Examples | PairItems) -> str:
    if run.release == "best":
        return CHOSEN
    return CALIBRATED if isinstance(items, PairItems) else UNCHOSEN


def _is_packed(source: str) -> bool:
    return bool(source) and (Path(source) / MANIFEST).is_file()
