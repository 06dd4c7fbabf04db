"""Separates the flags of a command line from its positional arguments, in any order.

How many words a flag takes follows from its field's type in the config class, so that
``vilta search --top 3 RUN FOLDER "a dog"`` and ``vilta search RUN FOLDER "a dog" --top 3`` are one.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

_SHORT = ("-h", "-q", "-o")
_NUMBER = re.compile(r"-[\d.][\d._]*(e[-+]?\d+)?|-inf", re.IGNORECASE)


class Split(NamedTuple):
    """Positional arguments and flags of a command line."""

    alone: list[str]
    """Positional arguments, in order."""
    flags: list[str]
    """Flags with their values."""


def split_arguments(arguments: Sequence[str], config: Any) -> Split:
    """Separate positional arguments from the flags of ``config`` and their values.

    ``config`` is an instance: the classes of its parts may depend on the call. ``-o`` stands for
    ``--out`` or ``--run.out``. After ``--`` no word is a flag. A flag that ``config`` lacks keeps
    the word after it, unless that is a flag too, for the parser to complain about. Raises
    ``ValueError`` for a text that begins with ``-`` and stands where flags do.
    """
    takes = {name: words for name, words, _ in _fields(config)}
    # A choice that includes True may be left out: `--run.resume`, or `--run.resume auto`.
    optional = {name: choices for name, _, choices in _fields(config) if "True" in choices}
    short = {"-o": next((f"--{name}" for name in ("out", "run.out") if name in takes), "-o")}
    alone: list[str] = []
    flags: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            alone += rest
            break
        word = short.get(word, word)
        if not word.startswith("-") or word == "-":
            alone.append(word)
            continue
        if not word.startswith("--") and word not in _SHORT and not _NUMBER.fullmatch(word):
            way = "a text that begins with - comes last, after --"
            if "minus" in takes:
                minus = shlex.join(["--minus", word[1:]])
                way = f"write it in the quotes of the query, or as {minus}"
            if word[1:].replace("-", "_").partition("=")[0] in takes:
                way = f"did you mean -{word}?"
            raise ValueError(f"{word!r} is no flag; {way}")
        flags.append(word)
        name = word.lstrip("-").replace("-", "_")
        if "=" in word or word in ("-h", "--help", "-q", "--quiet", "--json"):
            continue
        if name in optional:
            chosen = bool(rest) and rest[0] in optional[name]
            flags.append(rest.pop(0) if chosen else "True")
            continue
        many = takes.get(name, 0 if name.rpartition(".")[2].startswith("no_") else 1)
        while rest and many and not (rest[0].startswith("-") and (many > 1 or name not in takes)):
            flags.append(rest.pop(0))
            many -= many == 1
    return Split(alone, flags)


def _fields(config: Any, prefix: str = "") -> list[tuple[str, int, tuple[str, ...]]]:
    """Return the flags of a config: how many words each takes (0, 1, 2: many), and which."""
    found: list[tuple[str, int, tuple[str, ...]]] = []
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        hint: Any = hints[field.name]
        name = prefix + _flag_name(field.name, hint)
        if dataclasses.is_dataclass(hint):
            found += _fields(getattr(config, field.name), f"{name}.")
        else:
            words = 0 if hint is bool else 2 if get_origin(hint) is tuple else 1
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            found.append((name, words, tuple(map(str, choices))))
    return found


def _flag_name(field: str, hint: Any) -> str:
    """Return the name of a field's flag: its own, or the one that its type gives it."""
    renamed = (getattr(extra, "name", None) for extra in getattr(hint, "__metadata__", ()))
    return next((name for name in renamed if name), field)
