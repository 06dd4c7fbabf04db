"""What a command names as the next one is given as it stands, and runs.

Words in capitals stand for what the command cannot know (PHOTOS, DATA), and are filled in here.
"""

import json
import re
import shlex

import datasets
import pytest
from plain_output import assert_plain
from small_run import noise, write_run
from tiny_encoders import IMAGE, train_text_encoder

from vilta import cli

SMALL = shlex.split("""
    --model.image image.json --model.fusion-width 16 --model.fusion-heads 2
    --model.fusion-layers 1 --data.workers 0 --data.image-size 32 --data.max-text-tokens 32
    --optimization.steps 2 --optimization.batch-size 4 --run.device cpu
""")
"""For a pre-training that is named next with the encoders of the defaults."""
OUT = ["--out", "heat.png"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a space in its name, to work in."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_foreign_bars():
    """``vilta`` hides them before ``datasets`` is imported, which it has been here."""
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def given(capsys):
    """Give a command to ``vilta``, and return the words of the one that it names as the next."""

    def give(*words):
        capsys.readouterr()
        cli.run(words)
        said = capsys.readouterr()
        assert_plain(said)
        *_, last = said.err.splitlines()
        assert last.startswith("next: "), last
        return shlex.split(last.removeprefix("next: "))

    return give


def pairs(folder, seed):
    for index in range(9):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        noise(100 * seed + index, (32, 32)).save(folder / "images" / f"{index}.png")
    lines = [f"{index}.png\ta red ball number {index}" for index in range(9)]
    (folder / "list.tsv").write_text("\n".join(["shot\tsaid", *lines]))
    return str(folder / "list.tsv")


def test_from_a_table_to_a_page(given, place):
    """Inspect, pack, inspect, pre-train, evaluate, report, serve."""
    columns = ["--image-column", "shot", "--caption-column", "said"]
    table = pairs(place / "raw", 1)
    _, *words = given("inspect", table, *columns, "--images", "raw/images")
    assert words[:2] == ["pack", table]  # with the flags with which it was read
    _, *words = given(*[word.replace("data/NAME", "train") for word in words])
    assert words == ["inspect", "train"]
    given(*words)
    _, *words = given("pack", "scenes:5?seed=3&size=32", "--out", "held out")
    assert words == ["inspect", "held out"]
    _, *words = given("inspect", "train", "--against", "held out")
    assert words[:5] == ["pretrain", "--data.train", "train", "--data.val", "held out"]
    (place / "image.json").write_text(json.dumps(IMAGE))
    text = train_text_encoder(place / "text", "scenes:16?seed=0&size=32")
    _, *words = given(*words, "--model.text", text, *SMALL)
    assert words == ["evaluate", "runs/mine", "--data", "held out"]
    _, *words = given(*words)
    assert words == ["report", "runs/mine"]
    _, *words = given(*words, "--examples", "2")
    assert words == ["serve", "runs/mine"] and cli.parse(words)


def test_from_captions_to_pairs(given, place):
    """A text encoder is followed by a pre-training on the pairs that its captions came from."""
    (place / "image.json").write_text(json.dumps(IMAGE))
    tiny = ["--model.width", "16", "--model.layers", "1", "--model.heads", "2"]
    words = ["pretrain-text", "--data.train", "scenes:9?seed=1&size=32", *tiny, "-o", "a text"]
    at = SMALL.index("--data.max-text-tokens")
    short, small = SMALL[at : at + 2], SMALL[:at] + SMALL[at + 2 :]
    _, *words = given(*words, *short, *SMALL[-6:])
    assert words[1:3] == ["--model.text", "a text/model"]
    # Without being told, pre-training would ask the encoder for more tokens than it can read.
    assert given(*words, *small)[1:] == ["evaluate", "runs/mine", "--data", "DATA"]


@pytest.mark.parametrize(
    ("val", "then"),
    [
        ("scenes:5?seed=2&size=32", ["--data.val", "scenes:5?seed=2&size=32"]),
        ("held-out.txt", []),
        ("held-out.txt?encoding=latin-1", []),
    ],
)
def test_what_follows_a_text_encoder(given, place, val, then):
    """The held-out pairs as well, and an output that is not there yet."""
    (place / "held-out.txt").write_text("a red ball\na blue star\n")
    (place / "runs" / "mine").mkdir(parents=True)
    (place / "runs" / "mine-2").touch()
    train, tiny = "scenes:9?seed=1&size=32", shlex.split("--model.width 16 --model.layers 1")
    words = ["pretrain-text", "--data.train", train, "--data.val", val, *tiny]
    then = ["--data.train", train, *then, "--run.out", "runs/mine-3"]
    assert given(*words, "--model.heads", "2", *SMALL[-6:], "-o", "text")[-len(then) :] == then


def test_a_data_set_is_cleaned_and_trained_on(given, place):
    run, photos = str(write_run(place / "a run")), place / "photos"
    photos.mkdir()
    for index in range(3):
        noise(index).save(photos / f"{index}.png")
        (photos / f"{index}.txt").write_text("a red ball")
    _, *words = given("clean", run, "photos", "-o", "cleaned", "--keep-above", "0.0001")
    assert words == ["inspect", "cleaned/kept"]
    trains = ["pretrain", "--data.train", "cleaned/kept", "--run.out", "runs/mine"]
    assert given(*words)[1:] == trains
    assert given("pack", "photos", "--out", "data/NAME")[1:] == ["inspect", "data/NAME"]


def test_a_photo_found_is_looked_at(given, place):
    """Search, match, proofread, match; also with a file name that is not text."""
    run, photos = str(write_run(place / "a run")), place / "photos"
    photos.mkdir()
    for index in range(3):
        noise(index).save(photos / f"{index} \udcff.png")
    always = ["--threshold", "0", "--index", "index"]
    _, *words = given("search", run, "photos", "a red ball +a star -blue", *always)
    assert words[:2] == ["match", run] and words[3:] == ["a red ball", "a star", *OUT]
    words[2] = words[2].replace("\\xff", "\udcff")
    _, *words = given(*words)
    assert (place / "heat-2.png").exists()
    assert words[0] == "proofread" and words[3] in ("a red ball", "a star")
    words[2] = words[2].replace("\\xff", "\udcff")
    caption, (_, *words) = words[3], given(*words)
    assert words[0] == "match" and words[3] == caption and words[-2:] == OUT


def test_a_fine_tuning_is_evaluated(given, place, capsys):
    run = str(write_run(place / "a run"))
    words = ["--data.train", "scenes:9?seed=1&size=32", "--data.val", "scenes:5?seed=2&size=32"]
    small = [*SMALL[-6:], "--data.workers", "0"]
    _, *words = given("finetune", "retrieval", "--from", run, *words, *small, "-o", "tuned run")
    assert words[:2] == ["evaluate", "tuned run"]
    cli.run(words)
    *_, last = capsys.readouterr().err.splitlines()
    code = last.removeprefix("in Python: ")
    assert re.match(r"from vilta import \w+; model = ", code)
    exec(code, scope := {})
    assert scope["model"].config.image_size == 32
