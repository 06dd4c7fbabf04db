"""The command line, ``vilta COMMAND``. The module of a command is imported when it is called.

Settings are the defaults of ``vilta.config``, then a YAML file, then flags.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vilta.arguments import split_arguments
from vilta.config.ranges import check_config
from vilta.config.saved import require_its_folder
from vilta.config.shipped import FOLDER, find_shipped, shipped_names
from vilta.screen import name_program
from vilta.spelling import nearest
from vilta.training.stopping import FirstRequest
from vilta.verbs import VERBS, Verb

OURS = ("-q", "--quiet", "--json")
"""Flags of every command; they may also stand before its name."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A parsed command line."""

    verb: Verb
    arguments: list[str | list[str]]
    """The positional arguments, as returned by ``Verb.bind``."""
    config: Any
    quiet: bool
    """Whether to hide notes and progress."""
    json: bool
    """Whether to print what the command returns, as JSON, in place of its results."""


def main() -> None:
    """Run the command line of this process; ends it with 2 after a user's error, with
    130 after Ctrl-C.
    """
    # At its end Python looks through every object of torch for cycles: a second of the processor's
    # time, and nothing that outlives the process.
    atexit.register(gc.freeze)
    _CtrlC().install()
    name_program()
    try:
        run(sys.argv[1:])
    except KeyboardInterrupt:
        name = next((word for word in sys.argv[1:] if word not in OURS), "")
        verb = VERBS.get(name)
        then = f"; the same command {verb.stopped}" if verb and verb.stopped else ""
        print(f"stopped{then}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has read enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        if os.environ.get("VILTA_DEBUG"):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


class _CtrlC:
    """Lets the first Ctrl-C break off the work, and one well after it what is tidied up then.

    Two come at once where make or torchrun passes on what the terminal has sent, too: the second
    would break off the tidying, with a traceback.
    """

    def __init__(self) -> None:
        self.request = FirstRequest()

    def handle(self, *_: object) -> None:
        if self.request.is_first(signal.SIGINT):
            raise KeyboardInterrupt

    def ask_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Repeat a Ctrl-C that came while Python called back a weak reference or a destructor.

        What is raised there goes no further, and the command would go on as if nobody had asked.
        """
        if issubclass(lost.exc_type, KeyboardInterrupt):
            self.request = FirstRequest()
            threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT]).start()
        else:
            sys.__unraisablehook__(lost)

    def install(self) -> None:
        sys.unraisablehook = self.ask_again
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores it
            signal.signal(signal.SIGINT, self.handle)


def run(arguments: Sequence[str]) -> None:
    """Run the command that ``arguments`` name.

    Raises ``ValueError`` for what the user can fix, ``SystemExit`` after help or a bad flag.
    """
    ahead = list(itertools.takewhile(OURS.__contains__, arguments))
    arguments = [*arguments[len(ahead) :], *ahead]
    first = arguments[0] if arguments else "help"
    if first in ("-h", "--help") or (first == "help" and len(arguments) < 2):
        print(_overview())
        return
    if first in ("version", "--version"):
        from vilta.version import __version__

        print(f"vilta {__version__}")
        return
    call = parse([arguments[1], "--help"] if first == "help" else arguments)
    call.verb.check_places(call.arguments)
    _hide_foreign_bars(call.quiet)
    recipe = _load(call.verb.recipe)
    _show_downloads_only()
    from vilta.screen import notes, print_json, quiet, results

    with quiet(*[notes] * call.quiet, *[results] * call.json):
        found = recipe(*([] if call.verb.takes_yaml else call.arguments), call.config)
        if call.json and found is not None:  # None: another process of the run prints it
            print_json(found)


def parse(arguments: Sequence[str]) -> Call:
    """Parse ``COMMAND ARGUMENT... --flag value ...``, in any order, without importing its module.

    Raises ``ValueError`` for an unknown command, missing or surplus arguments, or a bad config
    file; ``SystemExit`` (2) after a flag that is wrong, (0) after help.
    """
    import tyro

    name = arguments[0]
    if name not in VERBS:
        raise ValueError(f"unknown command {name!r}; {nearest(name, VERBS)}")
    verb = VERBS[name]
    default = verb.config()
    alone, flags = split_arguments(arguments[1:], default)
    if verb.defaults and alone:  # help for the command alone does not need torch
        module, _, function = verb.defaults.partition(":")
        make_default = getattr(importlib.import_module(module), function)
        default = make_default(find_shipped(alone[0]))
        alone, flags = split_arguments(arguments[1:], default)
    if alone and "CONFIG.yaml" in verb.positional:
        alone[0] = find_shipped(alone[0])
    own = OURS[:2] if hasattr(default, "json") else OURS
    ours = [flag for flag in flags if flag in own]
    flags = [flag for flag in flags if flag not in own]
    bound: list[str | list[str]] = []
    if not {"-h", "--help"} & set(flags):
        try:
            bound = verb.bind(alone)
        except ValueError as error:
            raise ValueError(
                f"{error} after {name!r}; for example: vilta {name} {verb.example}"
            ) from None
    if not verb.defaults and alone and verb.is_yaml(alone[0]):
        from vilta.config.yaml_file import load_yaml

        if not os.path.isfile(alone[0]):
            known = ", ".join(shipped_names())
            raise ValueError(f"no such config file: {alone[0]}; vilta ships {known}")
        default = load_yaml(alone[0], verb.config)
    with _docstrings_joined():
        settings = tyro.cli(
            verb.config,
            default=default,
            args=flags,
            prog=f"vilta {name} {verb.positional}",
        )
    named = {flag.partition("=")[0].replace("_", "-") for flag in flags}
    has_epochs = hasattr(settings, "epochs")
    if has_epochs and "--optimization.steps" in named and "--epochs" not in named:
        settings = replace(settings, epochs=0.0)  # a flag wins over a preset's epochs
    check_config(settings)
    if alone and verb.is_yaml(alone[0]):
        require_its_folder(alone[0], settings, named)
    as_json = "--json" in ours
    quiet = bool(set(ours) - {"--json"})
    return Call(verb=verb, arguments=bound, config=settings, quiet=quiet, json=as_json)


@contextmanager
def _docstrings_joined() -> Iterator[None]:
    """Hand tyro the text of a field's docstring without the line ends of the source.

    tyro 1.0.17 joins lines before it takes their indent away, which keeps most of them apart.
    """
    import docstring_parser

    read = docstring_parser.parse_from_object

    def joined(of: object) -> docstring_parser.Docstring:
        found = read(of)
        for part in found.params:
            part.description = " ".join((part.description or "").split()) or None
        return found

    docstring_parser.parse_from_object = joined  # type: ignore[assignment]
    try:
        yield
    finally:
        docstring_parser.parse_from_object = read


def _load(recipe: str) -> Callable[..., Mapping[str, Any] | None]:
    """Import a command's module, without the search for garbage, which finds none meanwhile.

    torch and transformers are 600,000 objects that stay, and were gone through again and again.
    """
    gc.disable()
    try:
        function: Callable[..., Mapping[str, Any] | None] = importlib.import_module(recipe).run
    finally:
        gc.enable()
    return function


def _hide_foreign_bars(quiet: bool) -> None:
    """Let datasets draw its bars on a terminal only; neither it nor the hub does so under -q.

    Both read this when they are imported.
    """
    if quiet or not sys.stderr.isatty():
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def _show_downloads_only() -> None:
    """Hide the bars that transformers draws while it reads and writes files on the disk."""
    if "transformers" not in sys.modules:  # `pack` does without, and loading it takes a while
        return
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
            "usage: vilta COMMAND ... [--flag value ...] [-o OUT] [-q] [--json]",
            "",
            "Vision-language pre-training through textual augmentation (ViLTA, ICCV 2023).",
            "",
            *(f"  {call:{width}}  {text}" for call, text in calls.items()),
            "",
            "`vilta COMMAND --help` lists the flags of a command, to be given in any order. Flags",
            "override the YAML file, which overrides the defaults. -o is short for --out or",
            "--run.out; -q prints only results, --json prints them as JSON. VILTA_DEBUG=1 shows",
            "tracebacks. CONFIG.yaml is a file of your own, or the name of one that vilta ships:",
            *textwrap.wrap(
                f"{', '.join(shipped_names())} (in {FOLDER}).", 88, break_on_hyphens=False
            ),
        ]
    )


def _one_line(error: Exception) -> str:
    """Return an error's text in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
