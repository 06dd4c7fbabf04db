"""What people see: their data as they are, bars on a terminal, plain lines elsewhere."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from plain_output import assert_plain
from rich.console import Console
from rich.progress import Progress
from small_run import noise, write_run

import vilta
from vilta import screen
from vilta.cli import run
from vilta.screen import counted

SOURCES = sorted(Path(vilta.__file__).parent.rglob("*.py"))
ODD = ["[/x]", "[red]", ":b:", "[bold]"]


def test_no_console_reads_markup_or_emoji():
    consoles = 0
    for path in SOURCES:
        for call in re.findall(r"\bConsole\([^()]*\)", path.read_text()):
            assert "markup=False" in call and "emoji=False" in call, f"{path}: {call}"
            consoles += 1
    assert consoles == 2


@pytest.mark.parametrize("word", ODD)
def test_inspect_shows_the_words_of_the_data(word, tmp_path, capsys, monkeypatch):
    folder = tmp_path / f"{word.replace('/', '_')} photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 20), "red").save(folder / f"{name}.png")
    (folder / "a.txt").write_text(f"a {word} ball")
    (folder / "b.png").write_bytes(b"broken")
    (folder / "b.txt").write_text("b")
    monkeypatch.chdir(tmp_path)
    run(["inspect", str(folder)])
    out = "".join(capsys.readouterr()).replace("\n", "")
    assert f"{folder.name}' --out data/NAME" in out


def test_what_is_no_terminal_gets_plain_lines(tmp_path, capsys, monkeypatch):
    """The commands that name no next one; tests/test_next_commands.py has the others."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "mine")
    Path("photos").mkdir()
    for index in range(2):
        noise(index).save(f"photos/{index}.png")
    data, quick = "scenes:3?seed=1&size=32", ["--device", "cpu"]
    for words in (
        ["search", "mine", "photos", "a red ball", "--threshold", "0", "--index", "index"],
        ["match", "mine", "photos/0.png", "a red ball", "--out", "heat.png"],
        ["proofread", "mine", "photos/0.png", "a red ball"],
        ["negatives", "mine", data, "--filter", "none", "--out", "negatives.parquet"],
    ):
        run([*words, *quick])
        said = capsys.readouterr()
        assert said.out
        assert_plain(said)


def on_a_terminal(*command):
    """Run a command whose stderr is a terminal; return what it wrote there."""
    ours, its = pty.openpty()
    said, nowhere = b"", subprocess.DEVNULL
    known = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, stdout=nowhere, stderr=its, env=known) as process:
        os.close(its)
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    return said.decode()


def test_a_terminal_gets_a_bar_that_goes_again(tmp_path):
    out = str(tmp_path / "packed")
    pack = [sys.executable, "-m", "vilta", "pack", "scenes:40?seed=1&size=32", "--out"]
    said = on_a_terminal(*pack, out)
    assert "packing" in said and "━" in said and re.search(r"40/40.*images/s", said)
    erase_line = "\x1b[2K"
    assert said.rpartition(erase_line)[2] == f"next: vilta inspect {out}\r\n"


def test_a_terminal_is_told_that_items_are_read(tmp_path):
    """Thousands of scenes take as long as a training's first steps."""
    run, (train, val) = str(write_run(tmp_path / "mine")), ("scenes:9?seed=1", "scenes:3?seed=2")
    vilta, out = [sys.executable, "-m", "vilta"], str(tmp_path / "tuned")
    where = ["--data.train", f"{train}&size=32", "--data.val", f"{val}&size=32", "-o", out]
    small = ["--optimization.steps", "1", "--optimization.batch-size", "4", "--run.device", "cpu"]
    said = on_a_terminal(*vilta, "finetune", "snli-ve", "--from", run, *where, *small)
    assert f"reading {train}" in said and f"reading {val}" in said
    said = on_a_terminal(*vilta, "evaluate", out, "--data", f"{val}&size=32", "--device", "cpu")
    assert f"reading {val}" in said and "comparing with what the run" in said


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_bar_is_one_line_however_narrow(width, monkeypatch):
    console = Console(file=io.StringIO(), width=width)
    monkeypatch.setattr(screen, "notes", console)
    for name in ("packing", "reading /a/folder/with/a/long/name/photos.csv"):
        bar = Progress(*screen._columns("images"), console=console)
        task = bar.add_task(name, total=40_000)
        bar.update(task, completed=40_000)
        console.print(bar.get_renderable())
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 and all("40000/40000" in line for line in lines)
    assert any(isinstance(each, screen._Speed) for each in bar.columns) == (width >= 60)


def test_a_bar_shows_no_number_before_there_is_one():
    bar = Progress(*screen._columns(""), console=Console(file=io.StringIO(), width=80))
    task = bar.add_task("reading", total=None)
    lines = []
    for done in ({}, {"completed": 3}, {"total": 9}):
        bar.update(task, **done)
        bar.console.print(bar.get_renderable())
        lines.append(bar.console.file.getvalue().splitlines()[-1])
    assert [re.findall(r"\d+/[\d?]+", line) for line in lines] == [[], ["3/?"], ["3/9"]]


def test_of_several_processes_the_first_draws(monkeypatch):
    console = Console(force_terminal=True, _environ={"TERM": "xterm"}, markup=False, emoji=False)
    monkeypatch.setattr(screen, "notes", console)
    for rank, drawn in {"0": True, "1": False}.items():
        monkeypatch.setenv("RANK", rank)
        assert screen.draws_bars() is drawn


def test_where_bars_are_drawn(monkeypatch):
    for term, drawn in {"xterm": True, "dumb": False}.items():
        console = Console(force_terminal=True, _environ={"TERM": term}, markup=False, emoji=False)
        monkeypatch.setattr(screen, "notes", console)
        assert screen.draws_bars() is drawn


def test_one_is_not_many():
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert [counted(n, "was", "were") for n in (1, 2)] == ["1 was", "2 were"]
