"""The table of commands: the arguments of each, and the module that runs it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vilta.config import ablate, apps, finetune, pretrain, pretrain_text, tools
from vilta.tasks.names import is_task


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command of the command line."""

    recipe: str
    """Module whose ``run`` does the work: ``run(config)``, or ``run(positional, config)``. What it
    returns is printed by ``--json``."""
    config: type
    """Config class: its fields are the flags."""
    positional: str
    """Positional arguments, in this order: one in brackets is optional, one with
    ``...`` may be several, and CONFIG.yaml is a file with settings."""
    example: str
    """Arguments of a call, shown when the positional one is missing."""
    help: str
    stopped: str = ""
    """What the same command does after Ctrl-C; empty: the command says it itself."""
    defaults: str = ""
    """``module:function`` that makes the defaults from the first word, where they depend on it."""

    @property
    def takes_yaml(self) -> bool:
        """Whether the only positional argument is a config file."""
        return self.positional == "[CONFIG.yaml]"

    def is_yaml(self, argument: str) -> bool:
        """Whether this argument is a config file."""
        may_be = "CONFIG.yaml" in self.positional and argument.endswith((".yaml", ".yml"))
        return self.takes_yaml or may_be

    def bind(self, words: Sequence[str]) -> list[str | list[str]]:
        """Return the value of each name in ``positional``; "" for one that was left out.

        Raises ``ValueError`` that names the first one that is missing, or the first too many.
        """
        names, rest = self.positional.split(), list(words)
        bound: list[str | list[str]] = []
        for name in names:
            if not rest and not name.startswith("["):
                raise ValueError(f"{name.rstrip('.')} is missing")
            if name.endswith("..."):
                bound.append(rest)
                rest = []
            else:
                bound.append(rest.pop(0) if rest else "")
        if rest:
            raise ValueError(f"{rest[0]!r} is one argument too many (quote texts with spaces)")
        return bound

    def check_places(self, bound: Sequence[str | list[str]]) -> None:
        """Raise ``ValueError`` in one line for a folder or file that is named and not there.

        Done before the command's module is imported, which takes seconds where it needs torch. A
        task in the place of a run is left to the module, which knows what was meant.
        """
        for name, value in zip(self.positional.split(), bound, strict=True):
            if not isinstance(value, str):
                continue
            if name in FOLDERS and not is_task(value) and not os.path.isdir(value):
                raise ValueError(f"no such folder: {value}{_near(value, os.path.isdir)}")
            if name in FILES and not os.path.exists(value):
                hint = _near(value, os.path.isfile)
                raise ValueError(f"{value}: No such file or directory{hint}")


def _near(missing: str, wanted: Callable[[str], bool]) -> str:
    """Return a hint if something that is wanted has almost the name of what is missing."""
    place, name = os.path.split(missing.rstrip(os.sep))
    try:
        beside = [each for each in os.listdir(place or ".") if wanted(os.path.join(place, each))]
    except (OSError, ValueError):  # not there either, not readable, or no path at all
        return ""
    near = difflib.get_close_matches(name, beside, n=1)
    return f"; did you mean {os.path.join(place, near[0])!r}?" if near else ""


FOLDERS, FILES = ("RUN", "FOLDER"), ("IMAGE", "CHECKPOINT")
"""Positional arguments that must be there."""
BEGINS_AGAIN = "begins again"
GOES_ON = "with --run.resume auto goes on"
"""Of a training: said where it does not say more itself, before its first step and after its last.
"""

VERBS = {
    "pack": Verb(
        recipe="vilta.commands.pack",
        config=tools.PackConfig,
        positional="SOURCE",
        example='"scenes:1000?seed=0" --out data/scenes',
        help="write image-text pairs as shards, ready for training",
        stopped="continues after the last complete shard",
    ),
    "inspect": Verb(
        recipe="vilta.commands.inspect",
        config=tools.InspectConfig,
        positional="SOURCE",
        example="data/train --against data/val",
        help="inspect pairs before training: counts, duplicates, leakage, pictures",
        stopped=BEGINS_AGAIN,
    ),
    "pretrain-text": Verb(
        recipe="vilta.commands.pretrain_text",
        config=pretrain_text.PretrainTextConfig,
        positional="[CONFIG.yaml]",
        example="demo-text",
        help="train the language model used as text encoder and teacher",
        stopped=GOES_ON,
    ),
    "pretrain": Verb(
        recipe="vilta.commands.pretrain",
        config=pretrain.PretrainConfig,
        positional="[CONFIG.yaml]",
        example="demo --run.out runs/mine",
        help="pre-train image encoder, text encoder and fusion",
        stopped=GOES_ON,
    ),
    "ablate": Verb(
        recipe="vilta.commands.ablate",
        config=ablate.AblateConfig,
        positional="[CONFIG.yaml]",
        example="--base demo --common mlm_start=0 itm_start=0 --out runs/ablate",
        help="compare methods: train each from several seeds, measure, report",
        stopped="goes on with what is left",
    ),
    "finetune": Verb(
        recipe="vilta.commands.finetune",
        config=finetune.FinetuneConfig,
        positional="TASK|CONFIG.yaml",
        example="vqa --from runs/demo --data.train DATA --data.val DATA --run.out runs/vqa",
        help="fine-tune a run on a task: vqa, nlvr2, snli-ve, retrieval, ...",
        defaults="vilta.tasks.registry:default_config",
        stopped=GOES_ON,
    ),
    "evaluate": Verb(
        recipe="vilta.commands.evaluate",
        config=tools.EvaluateConfig,
        positional="RUN",
        example="runs/demo --data runs/demo-data/val",
        help="evaluate a run on image-text pairs or on a task",
        stopped=BEGINS_AGAIN,
    ),
    "export": Verb(
        recipe="vilta.commands.export",
        config=tools.ExportConfig,
        positional="RUN",
        example="runs/demo --onnx",
        help="export the model to ONNX, with a script that runs it without torch",
        stopped=BEGINS_AGAIN,
    ),
    "convert": Verb(
        recipe="vilta.commands.convert",
        config=tools.ConvertConfig,
        positional="CHECKPOINT",
        example="meter_clip16_288_roberta_pretrain.ckpt --out runs/meter/model",
        help="convert a checkpoint of METER to a model for the other commands",
        stopped=BEGINS_AGAIN,
    ),
    "report": Verb(
        recipe="vilta.commands.report",
        config=tools.ReportConfig,
        positional="RUN",
        example="runs/demo",
        help="write a report on a run: one HTML page with pictures",
        stopped=BEGINS_AGAIN,
    ),
    "search": Verb(
        recipe="vilta.commands.search",
        config=apps.SearchConfig,
        positional="RUN FOLDER [QUERY]",
        example='runs/demo photos "two dogs on a beach"',
        help="find photos by text, or similar to another photo",
        stopped="continues with the photos that are not in the index yet",
    ),
    "match": Verb(
        recipe="vilta.commands.match",
        config=apps.MatchConfig,
        positional="RUN IMAGE CAPTION...",
        example='runs/demo photo.jpg "a dog on a beach" --out heat.png',
        help="score captions for an image, and show which words decide",
        stopped=BEGINS_AGAIN,
    ),
    "proofread": Verb(
        recipe="vilta.commands.proofread",
        config=apps.ProofreadConfig,
        positional="RUN IMAGE CAPTION",
        example='runs/demo photo.jpg "a dog on a beach"',
        help="find the words of a caption that the image does not support",
        stopped=BEGINS_AGAIN,
    ),
    "clean": Verb(
        recipe="vilta.commands.clean",
        config=apps.CleanConfig,
        positional="RUN DATA",
        example="runs/demo data/train --out cleaned --keep-above 0.3",
        help="find pairs that do not match, and write the data without them",
        stopped=BEGINS_AGAIN,
    ),
    "negatives": Verb(
        recipe="vilta.commands.negatives",
        config=apps.NegativesConfig,
        positional="RUN DATA",
        example="runs/demo data/train --out negatives.parquet",
        help="generate hard negatives for training other models",
        stopped=BEGINS_AGAIN,
    ),
    "serve": Verb(
        recipe="vilta.commands.serve",
        config=apps.ServeConfig,
        positional="RUN",
        example="runs/demo --folder photos",
        help="serve the model over HTTP, with a page to search, match and proofread",
    ),
}
