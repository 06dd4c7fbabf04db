"""What the README and the guides show works: Python runs, commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vilta import cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/data.md", "docs/tasks.md")
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = ("bash", "console", "sh", "shell")


def commands() -> list[list[str]]:
    """The commands of the shell blocks, as lists of words."""
    found = []
    for language, code in BLOCKS:
        if language not in SHELL:
            continue
        lines = code.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        for line in lines:
            for part in re.split(r"&&|;|\|", line):
                if words := shlex.split(part, comments=True):
                    found.append(words)
    return found


COMMANDS = commands()


def only(program: str) -> list[list[str]]:
    return [words for words in COMMANDS if Path(words[0]).name == program]


def test_the_readme_has_its_two_commands():
    assert ["make", "demo"] in COMMANDS and ["make", "test"] in COMMANDS


def test_every_block_says_what_it_is():
    assert all(language for language, _ in BLOCKS), "a code block without a language is not tested"


def test_every_command_is_one_that_is_checked():
    known = {"make", "vilta", "cd", "git", "pip", "source", "torchrun", "tensorboard", "python"}
    assert {Path(words[0]).name for words in COMMANDS} <= known


@pytest.mark.parametrize("words", only("make"), ids=" ".join)
def test_make_targets_exist(words):
    targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("words", only("vilta"), ids=" ".join)
def test_vilta_commands_are_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[1:] == ["--help"]:
        cli.run(words[1:])
    elif "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            cli.parse(words[1:])
    else:
        assert cli.parse(words[1:]).verb in cli.VERBS.values()


def test_python_is_shown():
    assert PYTHON, "the README shows no Python example"


def small_demo_model(folder):
    """Write a model where `make demo` writes its own: as small, untrained, the same kind."""
    from vilta.data.scenes import vocabulary
    from vilta.model import ViltaForPreTraining, ViltaProcessor
    from vilta.model.conv_vit import ConvViTConfig
    from vilta.model.language_model import new_language_model, new_tokenizer

    tokenizer = new_tokenizer([" ".join(vocabulary())] * 2, 400)
    text = new_language_model(len(tokenizer), 32, 1, 2, 0.0, 40)
    image = ConvViTConfig(stem_widths=(8, 16, 32), hidden_size=32, num_hidden_layers=1)
    model = ViltaForPreTraining.from_encoders(
        image,
        text.config,
        fusion="cross-attention",
        fusion_layers=1,
        hidden_size=32,
        num_attention_heads=2,
        image_size=96,
        max_text_tokens=40,
    )
    model.save_pretrained(folder)
    ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_python_runs(code, tmp_path):
    small_demo_model(tmp_path / "runs" / "demo" / "model")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
