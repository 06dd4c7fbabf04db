"""The command line: ``vilta VERB``. Each verb is a recipe, imported only when it is called.

Settings are the defaults of ``vilta.config``, then a YAML file, then flags.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vilta.config import finetune, pretrain, tools


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A row of the verb table."""

    recipe: str
    """Module whose ``run`` does the work: ``run(config)``, or ``run(positional, config)``."""
    config: type
    """Config class: its fields are the flags."""
    positional: str
    """What stands between the verb and its flags: a YAML file where it says CONFIG.yaml, in
    brackets if it may be left out."""
    example: str
    """Arguments of a call, shown when the positional one is missing."""
    help: str

    @property
    def takes_yaml(self) -> bool:
        """Whether the positional argument is a config file and nothing else."""
        return self.positional.startswith("[")

    def is_yaml(self, argument: str) -> bool:
        """Whether this argument is a config file."""
        may_be = "CONFIG.yaml" in self.positional and argument.endswith((".yaml", ".yml"))
        return self.takes_yaml or may_be


VERBS = {
    "pack": Verb(
        recipe="vilta.commands.pack",
        config=tools.PackConfig,
        positional="SOURCE",
        example='"scenes:1000?seed=0" --out data/scenes',
        help="write image-text pairs as shards, ready for training",
    ),
    "inspect": Verb(
        recipe="vilta.commands.inspect",
        config=tools.InspectConfig,
        positional="SOURCE",
        example="data/train --against data/val",
        help="look at pairs before training: counts, duplicates, leakage, pictures",
    ),
    "pretrain-text": Verb(
        recipe="vilta.commands.pretrain_text",
        config=pretrain.PretrainTextConfig,
        positional="[CONFIG.yaml]",
        example="configs/demo-text.yaml",
        help="train the language model that reads captions and teaches",
    ),
    "pretrain": Verb(
        recipe="vilta.commands.pretrain",
        config=pretrain.PretrainConfig,
        positional="[CONFIG.yaml]",
        example="configs/demo.yaml --run.out runs/mine",
        help="pre-train image encoder, text encoder and fusion",
    ),
    "finetune": Verb(
        recipe="vilta.commands.finetune",
        config=finetune.FinetuneConfig,
        positional="TASK|CONFIG.yaml",
        example="vqa --from runs/demo --data.train DATA --data.val DATA --run.out runs/vqa",
        help="teach a pre-trained run a task: vqa, nlvr2, snli-ve, retrieval, ...",
    ),
    "evaluate": Verb(
        recipe="vilta.commands.evaluate",
        config=tools.EvaluateConfig,
        positional="RUN|TASK",
        example="runs/demo --data runs/demo-data/val",
        help="figures of a pre-trained run, or of a task (with --from RUN)",
    ),
    "report": Verb(
        recipe="vilta.commands.report",
        config=tools.ReportConfig,
        positional="RUN",
        example="runs/demo",
        help="draw a run as one HTML page with pictures",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command line, understood."""

    verb: Verb
    positional: str | None
    config: Any


def main() -> None:
    """Run the command line of this process; ends it with 2 after a user's error."""
    try:
        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("VILTA_DEBUG"):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def run(arguments: Sequence[str]) -> None:
    """Do what ``arguments`` say.

    Raises ``ValueError`` for what the user can mend, ``SystemExit`` after help or a bad flag.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    if arguments[0] == "--version":
        from vilta import __version__

        print(f"vilta {__version__}")
        return
    call = parse(arguments)
    recipe: Callable[..., None] = importlib.import_module(call.verb.recipe).run
    _show_downloads_only()
    if call.verb.takes_yaml:
        recipe(call.config)
    else:
        recipe(call.positional, call.config)


def parse(arguments: Sequence[str]) -> Call:
    """Read ``VERB [POSITIONAL] [--flag value ...]`` without importing the recipe.

    Raises ``ValueError`` for an unknown verb, a missing positional argument or a bad config file;
    ``SystemExit`` (2) after a flag that is wrong, (0) after help.
    """
    import tyro

    name, rest = arguments[0], list(arguments[1:])
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(VERBS)}"
        raise ValueError(f"unknown verb {name!r}; {hint}")
    verb = VERBS[name]
    positional = rest.pop(0) if rest and not rest[0].startswith("-") else None
    wants_help = "-h" in rest or "--help" in rest
    if positional is None and not verb.takes_yaml and not wants_help:
        raise ValueError(
            f"{verb.positional} is missing after {name!r}; for example: vilta {name} {verb.example}"
        )
    default = verb.config()
    if positional is not None and verb.is_yaml(positional):
        from vilta.config.yaml_file import load_yaml

        default = load_yaml(positional, verb.config)
    settings = tyro.cli(
        verb.config,
        default=default,
        args=rest,
        prog=f"vilta {name} {verb.positional}",
    )
    return Call(verb=verb, positional=positional, config=settings)


def _show_downloads_only() -> None:
    """Hide the bars that transformers draws while it reads and writes files on the disk."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    hidden = are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not hidden:
        enable_progress_bars()


def _overview() -> str:
    """Return the text of ``vilta --help``."""
    calls = {f"{name} {verb.positional}": verb.help for name, verb in VERBS.items()}
    width = max(map(len, calls))
    return "\n".join(
        [
            "usage: vilta VERB ... [--flag value ...]",
            "",
            "Vision-language pre-training through textual augmentation (ViLTA, ICCV 2023).",
            "",
            *(f"  {call:{width}}  {text}" for call, text in calls.items()),
            "",
            "`vilta VERB --help` lists the flags of a verb. Flags win over the YAML file, which",
            "wins over the defaults. VILTA_DEBUG=1 shows where an error came from.",
        ]
    )


def _one_line(error: Exception) -> str:
    """Return an error's text in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
