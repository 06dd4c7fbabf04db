"""What the README and the guides show works: Python runs, commands exist."""

import re
import shlex
import subprocess
import sys
import textwrap
from itertools import groupby
from pathlib import Path

import pytest

from vilta import cli

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/comparing.md",
    "docs/data.md",
    "docs/interoperability.md",
    "docs/tasks.md",
    "docs/using.md",
    "benchmarks/flickr8k/README.md",
    "benchmarks/methods/README.md",
)
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
            words = shlex.shlex(line, posix=True, punctuation_chars="&;|")
            words.whitespace_split = True
            for between, part in groupby(words, lambda word: word in ("&&", ";", "|")):
                if not between:
                    found.append([*part])
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
    known |= {"pytest", "pre-commit", "curl"}
    assert {Path(words[0]).name for words in COMMANDS} <= known


@pytest.mark.parametrize("words", only("make"), ids=" ".join)
def test_make_targets_exist(words):
    targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    makefile = makefile.replace("$(ENVIRONMENT)", ".venv/.installed")
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


def small_model():
    """Return an untrained model of the demo's kind, as small as can be, and its tokenizer."""
    from vilta.model import ViltaForPreTraining
    from vilta.model.conv_vit import ConvViTConfig
    from vilta.model.language_model import new_language_model, new_tokenizer
    from vilta.scenes import vocabulary

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
    return model, tokenizer


def docstring_block() -> str:
    """The code that the package's docstring shows."""
    import vilta

    block = vilta.__doc__.split("::\n")[1].split("``model.get_image_features``")[0]
    return textwrap.dedent(block).strip()


@pytest.mark.parametrize("code", [*PYTHON, docstring_block()], ids=lambda c: c.splitlines()[0])
def test_python_runs(code, tmp_path):
    from PIL import Image

    from vilta.model import ViltaProcessor

    Image.effect_noise((60, 40), 90).save(tmp_path / "photo.jpg")

    model, tokenizer = small_model()
    folder = tmp_path / "runs" / "demo" / "model"  # where `make demo` writes its own
    model.save_pretrained(folder)
    ViltaProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_ones_own_pictures_from_the_first_command_to_the_last(tmp_path, monkeypatch, capsys):
    """The README's block runs as it stands; pre-training gets small encoders and two steps."""
    from PIL import Image

    from vilta.scenes import captions, draw, make_scene

    for seed, name in enumerate(("photos", "other-photos")):
        folder = tmp_path / "path" / "to" / name
        folder.mkdir(parents=True)
        for index in range(9):
            scene = make_scene(seed, index)
            Image.fromarray(draw(scene, 32)).save(folder / f"{index}.png")
            (folder / f"{index}.txt").write_text("\n".join(captions(scene)))
    model, tokenizer = small_model()
    model.vilta.text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    model.vilta.vision.config.to_json_file(tmp_path / "image.json")
    small = "--model.image image.json --model.text text --model.fusion-width 16 --data.workers 0"
    small += " --model.fusion-heads 2 --model.fusion-layers 1 --data.image-size 32"
    small += " --data.max-text-tokens 32 --optimization.steps 2 --optimization.batch-size 4"

    (block,) = (code for _, code in BLOCKS if code.startswith("vilta pack path/to/photos"))
    monkeypatch.chdir(tmp_path)
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        cli.run(words[1:] + (small.split() if words[1] == "pretrain" else []))
        assert "next" in "".join(capsys.readouterr())
    assert (tmp_path / "runs/mine/model/model.safetensors").is_file()
    assert (tmp_path / "runs/mine/evaluation-val.json").is_file()
    assert (tmp_path / "runs/mine/report/report.html").is_file()


@pytest.mark.parametrize(
    "words", [words for words in only("python") if words[1] == "-m"], ids=" ".join
)
def test_modules_that_are_run_exist(words):
    path = ROOT / words[2].replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
