"""The choice of the number format, and the derived random numbers."""

import platform
import sys
from pathlib import Path

import pytest
import torch

from vilta.config import RunConfig
from vilta.training import precision
from vilta.training.precision import autocast, choose_dtype, keep_freed_memory, native_bf16
from vilta.training.processes import derived, start_processes

CPU = torch.device("cpu")


def test_auto_takes_bf16_only_where_it_is_native(monkeypatch):
    monkeypatch.setattr(precision, "native_bf16", lambda device: "AMX")
    assert choose_dtype("auto", CPU) == (torch.bfloat16, "bf16 (AMX)")
    assert choose_dtype("float32", CPU)[0] == torch.float32
    monkeypatch.setattr(precision, "native_bf16", lambda device: "")
    assert choose_dtype("auto", CPU)[0] == torch.float32
    assert choose_dtype("bf16", CPU)[0] == torch.bfloat16


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
    keep_freed_memory()
    assert torch.ones(3_000_000).sum() == 3_000_000


def test_derived_seeds_differ_by_every_part():
    places = [(seed, step, micro) for seed in range(4) for step in range(20) for micro in range(4)]
    seeds = [derived(*place) for place in places]
    assert len(set(seeds)) == len(places) and max(seeds) < 2**63
    assert derived(0, 1, 23) != derived(0, 12, 3)
    assert derived(1, 2, 3) == derived(1, 2, 3)
    torch.manual_seed(max(seeds))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_an_error():
    with pytest.raises(ValueError, match=r"--run.device cuda: torch finds no CUDA device"):
        start_processes(RunConfig(device="cuda"))
