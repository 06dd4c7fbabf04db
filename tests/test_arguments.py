from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilta.arguments import split_arguments
from vilta.config import PretrainConfig
from vilta.config.ablate import AblateConfig
from vilta.config.apps import SearchConfig
from vilta.config.tools import EvaluateConfig

FLAGS = [["--top", "3"], ["--json"], ["--minus", "a dog", "rain"], ["--like=x.png"], ["-o", "x"]]
WORDS = ["runs/demo", "photos", "two dogs -rain"]


@given(st.permutations(FLAGS), st.lists(st.integers(0, len(FLAGS)), min_size=3, max_size=3))
def test_words_and_flags_may_stand_in_any_order(flags, places):
    line = [list(flag) for flag in flags]
    for word, place in sorted(zip(WORDS, sorted(places), strict=True), key=lambda p: -p[1]):
        line.insert(place, [word])
    # A flag that takes many words takes all that follow, so a word of its own never follows one.
    if any(a[0] == "--minus" and not b[0].startswith("-") for a, b in pairwise(line)):
        return
    found = split_arguments([w for part in line for w in part], SearchConfig())
    assert sorted(found.alone) == sorted(WORDS)
    wanted = [["--out", "x"] if flag[0] == "-o" else flag for flag in flags]
    assert found.flags == [word for flag in wanted for word in flag]


@pytest.mark.parametrize(
    ("config", "arguments", "alone", "flags"),
    [
        (
            PretrainConfig,
            "-o runs/x c.yaml --run.resume",
            ["c.yaml"],
            "--run.out runs/x --run.resume True",
        ),
        (PretrainConfig, "--run.no-overwrite c.yaml", ["c.yaml"], "--run.no-overwrite"),
        (PretrainConfig, "--run.resume c.yaml", ["c.yaml"], "--run.resume True"),
        (PretrainConfig, "--run.resume auto c.yaml", ["c.yaml"], "--run.resume auto"),
        (PretrainConfig, "--model.freeze image text --run.seed 3", [], None),
        (EvaluateConfig, "--from runs/x vqa --full", ["vqa"], "--from runs/x --full"),
        (EvaluateConfig, "--top-k -5 vqa", ["vqa"], "--top-k -5"),
        (EvaluateConfig, "--top_k 5 -- --odd", ["--odd"], "--top_k 5"),
        (SearchConfig, "a b --threshold -1 -- -red", ["a", "b", "-red"], "--threshold -1"),
        (AblateConfig, "--seeds 0 -1 -2.5e-3 -q", [], None),
        (EvaluateConfig, "--nothing 5 vqa -h", ["vqa"], "--nothing 5 -h"),
    ],
)
def test_how_many_words_a_flag_takes(config, arguments, alone, flags):
    found = split_arguments(arguments.split(), config())
    assert found == (alone, (arguments if flags is None else flags).split())
