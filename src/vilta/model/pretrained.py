"""Loading, saving and initialisation of every model, strict about weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import HfApi
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from vilta.model.attention import ScaledIdentity
from vilta.model.configuration import ViltaConfig
from vilta.model.damage import damage_told
from vilta.model.heads import StateAddition

PRETRAINED = ("ViltaModel", "ViltaForPreTraining", "ViltaForImageTextRetrieval")
"""Classes whose checkpoints every downstream task may start from."""


class ViltaPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation in the way of transformers, but strict."""

    config_class = ViltaConfig
    base_model_prefix = "vilta"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    ignored_prefixes: ClassVar[tuple[str, ...]] = ()
    """Prefixes of weights that a checkpoint may contain and that are ignored."""
    new_prefixes: ClassVar[tuple[str, ...]] = ()
    """Prefixes of weights that a pre-trained checkpoint lacks; they are newly initialised."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the text encoder's word embeddings."""
        return self.vilta.get_input_embeddings()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load as transformers does; a leftover, missing or misshapen weight is an error.

        Raises ``ValueError`` that names the weight, or the folder of a damaged file. To start from
        encoders, use ``ViltaForPreTraining.from_encoders``. A task's class starts its own head anew
        when the checkpoint is a pre-trained one, and refuses that of another task.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that they are listed; refused below
        # What it would warn of is judged below.
        with _errors_only(), damage_told(pretrained_model_name_or_path):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        saved_by = (model.config.architectures or [cls.__name__])[0]
        own = saved_by == cls.__name__
        if cls.new_prefixes and not own and saved_by not in PRETRAINED:
            raise ValueError(
                f"{pretrained_model_name_or_path} is a checkpoint of {saved_by}, not of "
                f"{cls.__name__}; start from a pre-training run"
            )
        starting = () if own else cls.new_prefixes
        names = {
            "missing": [k for k in info["missing_keys"] if not k.startswith(starting)],
            "unexpected": [
                k for k in info["unexpected_keys"] if not k.startswith(cls.ignored_prefixes)
            ],
            "misshapen": [key for key, *_ in info["mismatched_keys"]],
        }
        for kind, found in names.items():
            if found:
                raise ValueError(
                    f"{pretrained_model_name_or_path}: {len(found)} {kind} weights for "
                    f"{cls.__name__}, first: {min(found)}; load it with the class that saved it"
                )
        return (model, info) if wants_info else model

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload as transformers does, then the model card of the folder it was loaded from.

        transformers alone uploads an empty form in its place.
        """
        commit = super().push_to_hub(repo_id, **options)
        card = Path(self.name_or_path, "README.md")
        if card.is_file():
            HfApi(library_name="vilta").upload_file(
                path_or_fileobj=card,
                path_in_repo=card.name,
                repo_id=commit.repo_url.repo_id,
                revision=commit.pr_revision or options.get("revision"),
                token=options.get("token"),
                commit_message="Upload model card",
            )
        return commit

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateAddition):
            init.zeros_(module.weight)
        if isinstance(module, ScaledIdentity):
            width = module.in_features
            init.copy_(module.weight, torch.cat([s * torch.eye(width) for s in module.scales]))
        if isinstance(module, ViltaPreTrainedModel) and hasattr(module, "pixel_mean"):
            init.copy_(module.pixel_mean, torch.tensor(self.config.image_mean) * 255)
            init.copy_(module.pixel_std, torch.tensor(self.config.image_std) * 255)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Keep transformers' own report of left and new weights off the screen."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
