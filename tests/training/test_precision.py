"""The choice of the number format, and the derived random numbers."""

import itertools
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers as t
from tiny_models import SIZE, WORDS
from torch import nn

from vilta.config import RunConfig
from vilta.seeds import derived
from vilta.training import precision
from vilta.training.precision import (
    NAMES,
    Rates,
    autocast,
    choose_device,
    choose_dtype,
    keep_for_next_step,
    measure_rates,
    native_bf16,
)
from vilta.training.processes import start_processes

CPU = torch.device("cpu")


MODEL = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 64), nn.Linear(64, 256))


@pytest.mark.parametrize(
    ("float32", "bf16", "chosen"),
    [(311, 162, "float32"), (330, 2100, "bf16"), (100, 105, "float32")],
)
def test_auto_takes_what_is_measured_to_be_faster(monkeypatch, float32, bf16, chosen):
    monkeypatch.setattr(precision, "native_bf16", lambda device: "AMX")
    measured = Rates(float32=float32 * 1e9, bf16=bf16 * 1e9)
    monkeypatch.setattr(precision, "measure_rates", lambda model, device: measured)
    dtype, reason = choose_dtype("auto", CPU, MODEL)
    assert NAMES[dtype] == chosen and reason.startswith(chosen)
    assert f"{float32:,}" in reason and f"{bf16:,}" in reason and "AMX" in reason
    for asked in NAMES.values():
        assert NAMES[choose_dtype(asked, CPU, MODEL)[0]] == asked
        assert NAMES[choose_dtype("auto", CPU, MODEL, begun_with=asked)[0]] == asked
        other = ({*NAMES.values()} - {asked}).pop()
        assert NAMES[choose_dtype(other, CPU, MODEL, begun_with=asked)[0]] == other


def test_nothing_is_measured_where_bf16_is_emulated(monkeypatch):
    monkeypatch.setattr(precision, "native_bf16", lambda device: "")
    monkeypatch.setattr(precision, "measure_rates", lambda model, device: 1 / 0)
    assert choose_dtype("auto", CPU, MODEL)[0] == torch.float32
    assert choose_dtype("bf16", CPU, MODEL)[0] == torch.bfloat16


@pytest.mark.parametrize("kind", [t.DebertaConfig, t.XmodConfig])
def test_a_text_encoder_that_cannot_compute_in_bf16_does_so_in_float32(monkeypatch, kind):
    monkeypatch.setattr(precision, "native_bf16", lambda device: "AMX")
    monkeypatch.setattr(precision, "measure_rates", lambda model, device: Rates(1.0, 9.0))
    able, unable = (
        nn.ModuleDict({"text": t.AutoModelForMaskedLM.from_config(each(**SIZE, vocab_size=WORDS))})
        for each in (t.BertConfig, partial(kind, default_language="en_XX"))
    )
    state = torch.get_rng_state()
    name = type(unable["text"]).__name__
    told = f"float32 ({name} cannot compute in bf16)"
    assert choose_dtype("auto", CPU, unable) == (torch.float32, told)
    assert choose_dtype("float32", CPU, unable)[0] == torch.float32
    for asked in ({"precision": "bf16"}, {"precision": "auto", "begun_with": "bf16"}):
        with pytest.raises(ValueError, match=rf"{name} cannot .* --optimization.precision float32"):
            choose_dtype(device=CPU, model=unable, **asked)
        assert choose_dtype(device=CPU, model=able, **asked)[0] == torch.bfloat16
    assert choose_dtype("auto", CPU, able)[0] == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), state)


def test_two_measurements_agree_on_a_busy_machine(monkeypatch):
    slowed = itertools.cycle([7.0, 1.0, 20.0])  # two products of three are interrupted
    alone = {torch.float32: 2e-3, torch.bfloat16: 1e-3}
    monkeypatch.setattr(
        precision, "_seconds", lambda states, weight, dtype: alone[dtype] * next(slowed)
    )
    first, second = (measure_rates(MODEL, CPU) for _ in range(2))
    assert first == second and first.bf16 == pytest.approx(2 * first.float32)


def test_measuring_leaves_no_trace():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert min(measure_rates(MODEL, CPU)) > 0
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert min(measure_rates(nn.LayerNorm(3), CPU)) > 0, "a model without linear layers"


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="/proc")
def test_the_unit_is_one_that_the_processor_has():
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    unit = native_bf16(CPU)
    flag = {"AMX": "amx_bf16", "AVX512-BF16": "avx512_bf16"}
    assert bool(unit) == any(f in flags for f in flag.values())
    assert not unit or flag[unit] in flags
    assert native_bf16(torch.device("meta")) == ""


def test_autocast_computes_in_the_chosen_dtype():
    weight = torch.ones(2, 2)
    for dtype in (torch.bfloat16, torch.float32):
        with autocast(CPU, dtype):
            assert (weight @ weight).dtype == dtype


def test_keeping_freed_memory_changes_no_result():
    keep_for_next_step()
    assert torch.ones(3_000_000).sum() == 3_000_000


MORE_SHAPES_THAN_ONEDNN_KEEPS = """
import torch
from vilta.training.precision import keep_for_next_step

keep_for_next_step()
weight = torch.ones(8, 8, dtype=torch.bfloat16)
for turn in range(2):
    print("turn", flush=True)
    for rows in range(1, 1201):
        torch.nn.functional.linear(torch.ones(rows, 8, dtype=torch.bfloat16), weight)
"""


def test_kernels_of_many_shapes_are_made_once():
    run = [sys.executable, "-c", MORE_SHAPES_THAN_ONEDNN_KEEPS]
    told = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    told.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    lines = subprocess.run(run, env=told, capture_output=True, text=True, check=True).stdout
    _, first, second = lines.split("turn")
    if first.count("cache_miss") < 1100:
        pytest.skip("oneDNN does not compute these products here")
    assert second.count("cache_miss") == 0 and second.count("cache_hit") > 1000


def test_derived_seeds_differ_by_every_part():
    places = [(seed, step, micro) for seed in range(4) for step in range(20) for micro in range(4)]
    seeds = [derived(*place) for place in places]
    assert len(set(seeds)) == len(places) and max(seeds) < 2**63
    assert derived(0, 1, 23) != derived(0, 12, 3)
    assert derived(1, 2, 3) == derived(1, 2, 3)
    torch.manual_seed(max(seeds))


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_device_is_an_error(name):
    if getattr(torch, name).is_available():
        pytest.skip("it is here")
    with pytest.raises(ValueError, match=f"device {name}: torch finds no such device here"):
        start_processes(RunConfig(device=name))


@pytest.mark.parametrize("name", ["cuda", "mps", "cpu"])
def test_the_device_that_is_there_is_taken(name, monkeypatch):
    found = None if name == "cpu" else torch.device(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    assert choose_device("auto").type == choose_device(name).type == name
    assert choose_device("cpu").type == "cpu"
    assert choose_dtype("auto", torch.device("mps"), MODEL)[0] == torch.float32
