"""Console output of the commands: results to stdout; progress, notes and warnings to stderr.

``vilta -q`` hides everything but results and errors; ``vilta --json`` prints what the command
returns in place of its results.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from vilta.json_text import without_nan

results = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
notes = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


_program = ["vilta"]


def name_program() -> None:
    """Take note of how this process was started, for the commands that it suggests.

    A module or file of one's own that registers encoders and calls ``vilta.cli.main`` is to be
    started in the same way again: only it can load what it registered.
    """
    main, started = sys.modules["__main__"], sys.argv[0]
    if not started.endswith(".py") or not os.path.samefile(started, main.__file__ or ""):
        return  # the script `vilta`, which pip wrote
    module = main.__spec__ and main.__spec__.name.removesuffix(".__main__")
    if module != "vilta":
        _program[:] = ["python", "-m", module] if module else ["python", started]


def command(*words: str) -> str:
    """Return a command of this program, quoted so that it can be pasted."""
    return shlex.join([*_program, *words])


def command_again(*words: str) -> str:
    """Return a command to be started as this process was: by ``torchrun`` in as many processes.

    The samples of a step, which a run goes on with, depend on their number.
    """
    here, everywhere = (os.environ.get(n, "1") for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if everywhere == "1":
        return command(*words)
    many = ["--nproc-per-node", here]
    if everywhere != here:
        many = ["--nnodes", str(int(everywhere) // int(here)), *many]
    started = ["-m", *_program] if _program == ["vilta"] else _program[1:]
    return shlex.join(["torchrun", *many, *started, *words])


def say_next(line: str) -> None:
    """Suggest the next command, as ``command`` returns it."""
    notes.print(f"next: {shown(line)}")


def free_folder(name: str) -> str:
    """Return ``name``, numbered if that is there already: for the output of what is suggested."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if not os.path.exists(n))


def print_json(line: Mapping[str, Any]) -> None:
    """Print one line of JSON to stdout; numbers that are not finite become null."""
    line = without_nan(line)
    text = json.dumps(line, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # a file's name need not be text
        text = json.dumps(line)
    results.file.write(text + "\n")


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 image`` or ``2,000 images``; ``many`` is the plural that ``s`` does not make."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def shown(path: str | os.PathLike[str]) -> str:
    """Return a file's name for one line of the screen, what is not printable as in ``ls -b``."""
    return "".join(c if c.isprintable() else _escaped(c) for c in os.fspath(path))


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that is not text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def draws_bars() -> bool:
    """Return whether stderr can show a line that moves; elsewhere a bar leaves an empty line.

    Of several processes on one terminal, as torchrun starts them, the first draws.
    """
    first = os.environ.get("RANK", "0") == "0"
    return first and notes.is_terminal and notes.is_interactive  # not interactive: TERM=dumb


@contextmanager
def quiet(*consoles: Console) -> Iterator[None]:
    """Hide what is printed to these consoles while the block runs."""
    before = [console.quiet for console in consoles]
    for console in consoles:
        console.quiet = True
    try:
        yield
    finally:
        for console, value in zip(consoles, before, strict=True):
            console.quiet = value


Tell = Callable[[int, int | None], None]
"""Called with the number done so far, and the total or None if it is not known."""


@contextmanager
def progress(what: str, unit: str = "") -> Iterator[Tell]:
    """Show a progress bar on a terminal; call what it yields with the number done and the total.

    Until it is called, the bar shows that something is being done. With a ``unit``, such as images,
    it also says how many of them are done in a second.
    """
    with changing_progress(unit) as tell:
        tell(what, 0, None)
        yield lambda done, total: tell(what, done, total)


def watched(what: str, loader: Any) -> Iterator[Any]:
    """Yield what ``loader``, which has a length, yields, and show how much of it is done."""
    with progress(what) as tell:
        for number, item in enumerate(loader, 1):
            yield item
            tell(number, len(loader))


@contextmanager
def changing_progress(unit: str = "") -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a bar as ``progress`` does, for work of several parts: each call also names the part."""
    live = Progress(*_columns(unit), console=notes, transient=True, disable=not draws_bars())
    with live as bar:
        line = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            line, description=what, completed=done, total=total
        )


def _columns(unit: str) -> list[ProgressColumn]:
    """Return the columns of a bar; on a narrow terminal a short bar, no pace, and the name cut."""
    whole = Column(no_wrap=True)
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(8, notes.width - 50))
    return [
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(bar_width=24 if notes.width >= 80 else 4, table_column=whole),
        _Done(table_column=whole.copy()),
        *[_Speed(unit, whole.copy())] * (bool(unit) and notes.width >= 60),
        TimeRemainingColumn(table_column=whole.copy()),
    ]


class _Done(MofNCompleteColumn):
    """The number done, and the total; nothing where neither is told, as while a file is read."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.completed or task.total is not None else Text("")


class _Speed(ProgressColumn):
    def __init__(self, unit: str, table_column: Column) -> None:
        super().__init__(table_column)
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")
