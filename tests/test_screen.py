"""What stands in people's data is shown as it is: no markup and no emoji are read in it."""

import re
from pathlib import Path

import pytest
from PIL import Image

import vilta
from vilta.cli import run

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
