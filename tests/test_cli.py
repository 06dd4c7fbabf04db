import dataclasses
import gc
import inspect
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import types

import pytest
import yaml
from PIL import Image

from vilta import cli, screen, verbs
from vilta.config import DataConfig, PretrainConfig, RunConfig
from vilta.config.apps import CleanConfig, MatchConfig, NegativesConfig, SearchConfig
from vilta.config.tools import EvaluateConfig, PackConfig, ReportConfig


@pytest.fixture
def recipe(monkeypatch):
    """Stands in for the recipe of every verb; ``calls`` holds what it was called with."""
    module = types.ModuleType("recipe")
    module.calls = []
    module.run = lambda *arguments: module.calls.append(arguments)
    for verb in cli.VERBS.values():
        monkeypatch.setitem(sys.modules, verb.recipe, module)
    monkeypatch.setattr(verbs.Verb, "check_places", lambda *_: None)  # nothing is read
    return module


def ends_with(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vilta", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_flags_win_over_yaml_and_yaml_over_defaults(recipe, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("optimization: {lr: 1e-3, steps: 7}\nmodel: {freeze: [image]}\n")
    cli.run(["pretrain", str(path), "--run.out", "runs/x", "--optimization.lr", "1e-4"])
    ((config,),) = recipe.calls
    assert isinstance(config, PretrainConfig)
    assert (config.optimization.lr, config.optimization.steps) == (1e-4, 7)
    assert (config.run.out, config.model.freeze) == ("runs/x", ("image",))
    assert config.data == PretrainConfig().data


@pytest.mark.parametrize(
    "verb, name, beside, flags, asked",
    [
        ("ablate", "ablate.yaml", "plan.json", [], "--out"),
        ("pretrain", "config.yaml", "metrics.jsonl", ["--run.resume"], "--run.out"),
        ("finetune", "config.yaml", "metrics.jsonl", ["--run.resume", "auto"], "--run.out"),
    ],
)
def test_a_folder_that_was_moved_is_not_begun_anew_where_it_was(
    verb, name, beside, flags, asked, recipe, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "moved"
    place.mkdir()
    out = {"out": "old", "base": "demo"} if verb == "ablate" else {"run": {"out": "old"}}
    more = {"task": "retrieval"} if verb == "finetune" else {}
    (place / name).write_text(yaml.safe_dump(out | more))
    (place / beside).write_text("{}")
    path = f"moved/{name}"
    with pytest.raises(ValueError, match=f"was saved in old.*; {asked} moved goes on in this one"):
        cli.run([verb, path, *flags])
    assert not recipe.calls
    for here in (place, tmp_path / "old"):
        cli.run([verb, path, *flags, "-o", str(here)])
    place.rename(tmp_path / "old")
    cli.run([verb, f"old/{name}", *flags])
    assert len(recipe.calls) == 3


def test_a_verb_with_yaml_runs_without_one(recipe):
    cli.run(["pretrain-text", "--run.resume", "--optimization.batch_size", "3"])
    ((config,),) = recipe.calls
    assert config.run.resume and config.optimization.batch_size == 3
    assert config.run.selection_metric == "text/top1"


def test_a_config_that_vilta_ships_is_given_by_its_name(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.run(["pretrain", "demo", "--run.seed", "3"])
    cli.run(["finetune", "scenes/vqa"])
    (pretrained,), (path, finetuned) = recipe.calls
    assert (pretrained.model.image, pretrained.run.seed) == ("demo-image", 3)
    assert path.endswith("scenes/vqa.yaml") and finetuned.task == "vqa"


def test_underscores_and_hyphens_are_one(recipe):
    for flag in ("--shard_rows", "--shard-rows"):
        cli.run(["pack", "scenes:10?seed=0", "--out", "x", flag, "5", "--strict"])
    expected = PackConfig(out="x", shard_rows=5, strict=True)
    assert recipe.calls == [("scenes:10?seed=0", expected)] * 2


def test_report_takes_its_run(recipe):
    cli.run(["report", "runs/demo", "--examples", "3"])
    assert recipe.calls == [("runs/demo", ReportConfig(examples=3))]


def test_flags_may_stand_anywhere(recipe):
    wanted = ("runs/demo", "photos", "two dogs", SearchConfig(top=3, json=True))
    for line in (
        ["search", "--top", "3", "--json", "runs/demo", "photos", "two dogs"],
        ["search", "runs/demo", "--top", "3", "photos", "--json", "two dogs"],
        ["search", "runs/demo", "photos", "two dogs", "--top=3", "--json"],
    ):
        cli.run(line)
        assert recipe.calls.pop() == wanted
    cli.run(["search", "runs/demo", "photos"])
    assert recipe.calls.pop() == ("runs/demo", "photos", "", SearchConfig())
    cli.run(["match", "runs/demo", "x.png", "a", "b", "-o", "y.png"])
    assert recipe.calls.pop() == ("runs/demo", "x.png", ["a", "b"], MatchConfig(out="y.png"))


def test_o_is_where_a_run_goes(recipe):
    cli.run(["pretrain", "-o", "runs/x"])
    ((config,),) = recipe.calls
    assert config.run.out == "runs/x"


def test_q_silences_the_notes_and_nothing_else(recipe, capsys):
    def says(*_):
        screen.notes.print("a note")
        screen.results.print("a result")

    recipe.run = says
    cli.run(["report", "runs/demo", "-q"])
    quiet = capsys.readouterr()
    cli.run(["report", "runs/demo"])
    loud = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("a result\n", "")
    assert (loud.out, loud.err) == ("a result\n", "a note\n")


def test_json_prints_what_the_command_returns_in_place_of_its_results(recipe, capsys):
    def measures(*_):
        screen.notes.print("a note")
        screen.results.print("a table")
        return {"r1": 50.0, "mrr": float("nan"), "parts": {"loss": [1.5, float("inf")]}}

    recipe.run = measures
    cli.run(["report", "--json", "runs/demo"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"r1": 50, "mrr": None, "parts": {"loss": [1.5, None]}}
    assert said.err == "a note\n"
    cli.run(["report", "runs/demo", "--json", "-q"])
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and said.err == ""
    cli.run(["-q", "--json", "report", "runs/demo"])  # before the command, too
    assert capsys.readouterr() == said
    recipe.run = lambda *_: None  # another process of the run
    cli.run(["finetune", "vqa", "--json"])
    assert capsys.readouterr().out == ""
    cli.run(["report", "runs/demo"])
    assert not screen.results.quiet


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        (["--optimization.steps", "5"], 0),
        (["--optimization.steps=5"], 0),
        (["--optimization.steps", "5", "--epochs", "2"], 2),
        (["--optimization.lr", "1e-3"], 3),
    ],
)
def test_steps_as_a_flag_win_over_epochs_of_a_config(recipe, tmp_path, flags, epochs):
    path = tmp_path / "config.yaml"
    path.write_text("epochs: 3\n")
    cli.run(["pretrain", str(path), "--run.out", "x", *flags])
    assert recipe.calls[0][0].epochs == epochs


@pytest.mark.parametrize(
    ("content", "epochs"),
    [
        ("optimization: {steps: 5}\n", 0),
        ("optimization: {steps: 5}\nepochs: 2\n", 2),
        ("optimization: {lr: 1e-3}\n", 10),
    ],
)
def test_steps_of_a_finetuning_config_are_not_lost_to_the_default_epochs(
    recipe, tmp_path, content, epochs
):
    path = tmp_path / "config.yaml"
    path.write_text("task: vqa\n" + content)
    cli.run(["finetune", str(path), "--from", "x"])
    assert recipe.calls[0][-1].epochs == epochs


def test_help_and_version_are_verbs_too(monkeypatch, capsys):
    cli.run(["help"])
    assert "usage: vilta COMMAND" in capsys.readouterr().out
    assert ends_with(monkeypatch, "help", "pack") == 0
    assert "vilta pack SOURCE" in capsys.readouterr().out
    for word in ("version", "--version"):
        cli.run([word])
        assert capsys.readouterr().out.startswith("vilta 0.")


def test_next_can_be_pasted(capsys):
    screen.say_next(screen.command("evaluate", "runs/my run", "--data", "scenes:10?seed=0"))
    said = capsys.readouterr().err.removeprefix("next: ")
    assert shlex.split(said) == ["vilta", "evaluate", "runs/my run", "--data", "scenes:10?seed=0"]


def test_a_run_of_several_processes_goes_on_in_as_many(monkeypatch):
    """As one its steps would have fewer samples, and it would be refused."""
    words = ["pretrain", "runs/my run/config.yaml", "--run.resume"]
    assert shlex.split(screen.command_again(*words)) == ["vilta", *words]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    two = ["torchrun", "--nproc-per-node", "2"]
    assert shlex.split(screen.command_again(*words)) == [*two, "-m", "vilta", *words]
    monkeypatch.setattr(screen, "_program", ["python", "-m", "mine"])
    assert shlex.split(screen.command_again(*words)) == [*two, "-m", "mine", *words]
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert screen.command_again("help").startswith("torchrun --nnodes 3 --nproc-per-node 2 ")


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (["-m", "vilta"], "vilta"),
        (["-m", "mine"], "python -m mine"),
        (["mine/encoders.py"], "python mine/encoders.py"),
    ],
)
def test_a_program_of_ones_own_is_named_in_what_comes_next(start, named, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("__init__.py", "__main__.py", "encoders.py"):
        text = "from vilta.cli import main\nif __name__ == '__main__':\n    main()\n"
        (folder / name).write_text("" if name == "__init__.py" else text)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a dog\n")
    packed = subprocess.run(
        [sys.executable, *start, "pack", ".", "--out", "packed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert packed.stderr.splitlines()[-1] == f"next: {named} inspect packed"


def test_missing_positional_argument_shows_an_example(monkeypatch, capsys):
    assert ends_with(monkeypatch, "pack", "--out", "x") == 2
    assert "SOURCE is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretrian"], ["unknown command 'pretrian'", "'pretrain'"]),
        (["xyzzy"], ["unknown command", "pretrain-text"]),
        (["search", "runs/x"], ["FOLDER is missing after 'search'", "for example: vilta search"]),
        (["match", "runs/x", "a.png"], ["CAPTION is missing"]),
        (["report", "runs/x", "y"], ["'y' is one argument too many", "quote"]),
        (["search", "x", "y", "a dog", "-red"], ["'-red' is no flag", "quotes", "--minus red\n"]),
        (["search", "x", "y", "-two men"], ["'-two men' is no flag", "--minus 'two men'\n"]),
        (["match", "x", "y", "-red"], ["'-red' is no flag; a text that begins with -", "after --"]),
        (["report", "x", "-examples", "3"], ["'-examples' is no flag", "--examples"]),
        (["help", "xyzzy"], ["unknown command 'xyzzy'"]),
        (["pretrain", "missing.yaml"], ["no such config file", "missing.yaml", "demo-text"]),
        (["pretrain", "dmeo"], ["no such config file: dmeo; vilta ships", " demo,"]),
    ],
)
def test_what_the_user_got_wrong_is_one_line(monkeypatch, capsys, arguments, words):
    assert ends_with(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "runs/dmo"], "no such folder: runs/dmo; did you mean 'runs/demo'?"),
        (["report", "other/run"], "no such folder: other/run"),
        (["serve", "photo.jpg"], "no such folder: photo.jpg"),
        (["search", "runs/demo", "photos", "a dog"], "no such folder: photos"),
        (
            ["match", "runs/demo/", "photo.jpeg", "a dog"],
            "photo.jpeg: No such file or directory; did you mean 'photo.jpg'?",
        ),
        (["convert", "x.ckpt", "-o", "y"], "x.ckpt: No such file or directory"),
        (["export", "a\0b"], "no such folder: a\0b"),
    ],
)
def test_a_place_that_is_not_there_is_told_before_anything_is_loaded(
    monkeypatch, capsys, tmp_path, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "photo.jpg").touch()
    monkeypatch.setattr(cli, "_load", lambda recipe: pytest.fail(f"{recipe} is loaded"))
    assert ends_with(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def test_unknown_flag_names_the_nearest(monkeypatch, capsys):
    assert ends_with(monkeypatch, "pretrain", "--run.resum") == 2
    assert "--run.resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no images in\n  here"), "error: no images in here\n"),
        (OSError(28, "No space left on device", "a/b"), "error: No space left on device: a/b\n"),
        (OSError(28, "No space left on device"), "error: [Errno 28] No space left on device\n"),
        (FileNotFoundError(), "error: FileNotFoundError\n"),
    ],
)
def test_errors_of_a_recipe_are_one_line(recipe, monkeypatch, capsys, error, line):
    def fails(*_):
        raise error

    recipe.run = fails
    assert ends_with(monkeypatch, "report", "x") == 2
    assert capsys.readouterr().err == line
    monkeypatch.setenv("VILTA_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main()


def test_a_bug_keeps_its_traceback(recipe, monkeypatch):
    def fails(*_):
        raise KeyError("bug")

    recipe.run = fails
    monkeypatch.setattr(sys, "argv", ["vilta", "report", "x"])
    with pytest.raises(KeyError):
        cli.main()


@pytest.mark.parametrize(
    "verb, then",
    [
        ("report", "; the same command begins again"),
        ("search", "; the same command continues with the photos that are not in the index yet"),
        ("pretrain", "; the same command with --run.resume auto goes on"),
        ("serve", ""),
    ],
)
def test_interrupted(verb, then, recipe, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    recipe.run = interrupted
    arguments = {"search": ["x", "y"], "pretrain": []}.get(verb, ["x"])
    for ahead in ([], ["-q", "--json"]):
        assert ends_with(monkeypatch, *ahead, verb, *arguments) == 130
        assert capsys.readouterr().err == f"stopped{then}\n"


def test_what_must_be_given_says_so():
    for config, names in {
        PackConfig: ["out"],
        CleanConfig: ["out"],
        NegativesConfig: ["out"],
        EvaluateConfig: ["data"],
        DataConfig: ["train"],
        RunConfig: ["out"],
    }.items():
        source = inspect.getsource(config)
        for name in names:
            assert re.search(rf'    {name}: str = ""\n    """Required\. ', source), (config, name)


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_comes_from_the_docstrings(name, monkeypatch, capsys):
    assert ends_with(monkeypatch, name, "--help") == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    verb = cli.VERBS[name]
    assert f"vilta {name} {verb.positional}" in text
    assert " ".join((verb.config.__doc__ or "").split()) in text
    if name == "pretrain":
        assert "Peak learning rate of the fusion encoder." in text


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_breaks_a_line_only_where_it_is_full(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    ends_with(monkeypatch, name, "--help")
    lines = [line.rstrip("│ ") for line in capsys.readouterr().out.splitlines()]
    broken = [
        (line, word[1])
        for line, after in itertools.pairwise(lines)
        if (word := re.match(r"[│ ] +([a-z]\S*)", after))
        and not re.match("[│ ] +-", line)
        and len(f"{line} {word[1]}") < 78
    ]
    assert broken == []


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["--version"], *([verb, "--help"] for verb in cli.VERBS)]
)
def test_help_imports_neither_torch_nor_transformers(arguments):
    code = (
        "import sys\nfrom vilta.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(done.stdout) > 10


def test_pack_and_inspect_do_without_torch(tmp_path):
    code = (
        "import sys; from vilta import cli\n"
        "cli.run(['pack', 'scenes:4?size=32', '--out', 'packed'])\n"
        "cli.run(['inspect', 'packed', '--against', 'packed'])\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_the_end_of_the_program_looks_for_no_garbage():
    code = (
        "import gc\nfrom vilta.cli import main\n"
        "class Cycle:\n"
        "    def __init__(self):\n        self.itself = self\n"
        "    def __del__(self):\n        print('looked through all objects', flush=True)\n"
        "gc.disable()\nmain()\nCycle()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vilta ") and len(done.stdout.splitlines()) == 1


def test_a_command_is_loaded_without_searches_for_garbage(tmp_path, monkeypatch):
    (tmp_path / "watched_recipe.py").write_text(
        "import gc\nsearched = gc.isenabled()\nrun = lambda *_: {}\n"
    )
    (tmp_path / "broken_recipe.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    verb = cli.VERBS["report"]
    monkeypatch.setitem(cli.VERBS, "report", dataclasses.replace(verb, recipe="watched_recipe"))
    cli.run(["report", str(tmp_path)])
    assert not sys.modules.pop("watched_recipe").searched
    assert gc.isenabled()
    monkeypatch.setitem(cli.VERBS, "report", dataclasses.replace(verb, recipe="broken_recipe"))
    with pytest.raises(ValueError, match="broken"):
        cli.run(["report", str(tmp_path)])
    assert gc.isenabled()


def test_module_and_program_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "vilta", "pretrian"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown command 'pretrian'; did you mean 'pretrain'?\n"
    done = subprocess.run([sys.executable, "-m", "vilta"], capture_output=True, text=True)
    assert all(name in done.stdout for name in cli.VERBS)


def test_a_ctrl_c_that_python_forgets_is_asked_again():
    """What a handler raises inside a destructor goes nowhere."""
    code = (
        "import signal, time\nfrom vilta import cli\n"
        "class Last:\n"
        "    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n        len('')\n"
        "def work(arguments):\n    last = Last()\n    del last\n    time.sleep(600)\n"
        "cli.run = work\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_a_reader_that_has_read_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, sooner
    words = [sys.executable, "-m", "vilta", "pretrain", "--help"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    "pause, code, err", [(0.0, 130, "stopped\n"), (1.0, 130, "ended at once\n")]
)
def test_a_second_ctrl_c_ends_what_is_tidied_up_only_if_it_is_meant(pause, code, err):
    """make and torchrun pass on what the terminal has sent to all."""
    program = (
        "import os, signal, time\nfrom vilta import cli\n"
        "def work(arguments):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(600)\n"
        f"    finally:\n        time.sleep({pause})\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(0.1)\n"
        "cli.run = work\ncli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (code, err)
