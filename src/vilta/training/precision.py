"""Where and in which number format a step is computed, and what a CPU keeps between steps."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
import time
from collections import Counter
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from vilta.screen import counted

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KERNELS = 4096
"""Kernels that oneDNN keeps, up to 0.25 MB each; our choice. Within 80 steps of the demo in bf16,
about 2,000 different ones are needed; to make them took an eighth of the time (a CPU with AMX)."""

NAMES = {torch.float32: "float32", torch.bfloat16: "bf16"}
BF16_MUST_GAIN = 1.1
"""bf16 is taken where it is so many times as fast: below, float32 is as good and more exact, and
two measurements of the same machine could decide differently. Our choice."""
_LAYERS = 4
_REPEATS = 9
_TOKENS = {"cpu": (128, 512, 200_000_000), "gpu": (2048, 8192, 50_000_000_000)}
"""Tokens in one product, fewest and most, and FLOPs that are enough: about a millisecond, which a
busy CPU often gives without interruption."""


class Rates(NamedTuple):
    """Speed of a model's matrix products in FLOP/s, as a step under ``autocast`` runs them."""

    float32: float
    bf16: float


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names: cpu, cuda, mps, or auto for the one that is there.

    Raises ``ValueError`` if torch does not find the one named.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    found = accelerator.type if accelerator is not None else "cpu"
    if name not in ("auto", "cpu", found):
        raise ValueError(f"--device {name}: torch finds no such device here; use auto or cpu")
    return torch.device(found if name == "auto" else name)


def describe_device(device: torch.device) -> str:
    """Name a device for people: the GPU, or the CPU threads, the machine and its widest unit."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type}, {platform.machine()}"
    unit = native_bf16(device) or torch.backends.cpu.get_cpu_capability()  # AVX2, AVX512
    name = f"{counted(torch.get_num_threads(), 'CPU thread')}, {platform.machine()}"
    return name if unit == "DEFAULT" else f"{name} with {unit}"


def native_bf16(device: torch.device) -> str:
    """Name the unit that multiplies bf16 natively on ``device``; empty if there is none."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if device.type == "cpu":
        # torch publishes no name for these two queries; a build without them means no unit.
        units = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
        for unit, query in units.items():
            if getattr(torch.cpu, query, bool)():
                return unit
    return ""


def choose_dtype(
    precision: Literal["auto", "bf16", "float32"],
    device: torch.device,
    model: nn.Module,
    begun_with: str = "",
) -> tuple[torch.dtype, str]:
    """Return the dtype to compute ``model`` in, and the reason to show to the user.

    ``auto`` keeps what a run has ``begun_with`` (a name in ``NAMES``); otherwise it takes the
    faster of the two, measured here and now, where the device multiplies bf16 natively. Raises
    ``ValueError`` if bf16 is asked for, or kept, and a text encoder fails in it.
    """
    unit = native_bf16(device)
    wanted = begun_with if precision == "auto" else precision
    unable = _fails_in_bf16(model) if wanted == "bf16" or (unit and wanted != "float32") else ""
    if unable and wanted == "bf16":
        raise ValueError(
            f"{unable} cannot compute in bf16; give --optimization.precision float32 (to evaluate: "
            "--precision float32)"
        )
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    if precision != "auto":
        emulated = precision == "bf16" and not unit
        return dtypes[precision], (
            f"{precision} ({'emulated: float32 is likely faster here' if emulated else 'as asked'})"
        )
    if begun_with in dtypes:
        return dtypes[begun_with], f"{begun_with} (as the run began)"
    if not unit:
        return torch.float32, "float32 (no native bf16 here)"
    if unable:
        return torch.float32, f"float32 ({unable} cannot compute in bf16)"
    rates = measure_rates(model, device)
    faster = rates.bf16 >= BF16_MUST_GAIN * rates.float32
    chosen, other = ("bf16", "float32") if faster else ("float32", "bf16")
    return dtypes[chosen], (
        f"{chosen} (measured {getattr(rates, chosen) / 1e9:,.0f} GFLOP/s, "
        f"{other} {getattr(rates, other) / 1e9:,.0f}; {unit})"
    )


@torch.no_grad()
def _fails_in_bf16(model: nn.Module) -> str:
    """Name a language model of ``model`` that cannot read a text under ``autocast``, or return "".

    Some fill a tensor of one format with values of the other (DeBERTa's first version, X-MOD).
    """
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.get_output_embeddings() is not None:
            ids = torch.zeros(1, 4, dtype=torch.long, device=part.device)
            drawn_from = [part.device] if part.device.type == "cuda" else []
            try:
                with torch.random.fork_rng(drawn_from), autocast(part.device, torch.bfloat16):
                    part(input_ids=ids, attention_mask=torch.ones_like(ids))
            except RuntimeError:
                return type(part).__name__
    return ""


def measure_rates(model: nn.Module, device: torch.device) -> Rates:
    """Measure products of the sizes of ``model``'s commonest linear layers in both formats.

    They run as in a step: from float32 states and weights, which ``autocast`` converts. The two
    formats take turns, and of each product the fastest repeat counts: what else the machine does
    can only slow it, and on a busy machine a median measures the neighbours. On a CPU one thread
    alone is measured too and counts where it is faster, because threads that wait for each other
    on busy cores are meaningless. Takes a tenth of a second on an idle CPU.
    """
    shapes = Counter(m.weight.shape for m in model.modules() if isinstance(m, nn.Linear))
    layers = [shape for shape, _ in shapes.most_common(_LAYERS)] or [torch.Size((256, 256))]
    threads = torch.get_num_threads()
    rates = _rates(layers, device)
    if device.type == "cpu" and threads > 1:
        try:
            torch.set_num_threads(1)
            rates = max(rates, _rates(layers, device), key=min)
        finally:
            torch.set_num_threads(threads)
    return rates


@torch.no_grad()
def _rates(layers: list[torch.Size], device: torch.device) -> Rates:
    """Measure one product for each shape of a weight."""
    # Draws from a generator of its own: a probe must not move the run's random numbers.
    generator = torch.Generator().manual_seed(0)
    flops, seconds = 0, dict.fromkeys(NAMES, 0.0)
    for outputs, inputs in layers:
        per_token = 2 * outputs * inputs
        fewest, most, enough = _TOKENS["cpu" if device.type == "cpu" else "gpu"]
        tokens = min(max(enough // per_token, fewest), most)
        states = torch.randn(tokens, inputs, generator=generator).to(device)
        weight = torch.randn(outputs, inputs, generator=generator).to(device)
        fastest = dict.fromkeys(NAMES, math.inf)
        for _ in range(_REPEATS):
            for dtype in NAMES:
                fastest[dtype] = min(fastest[dtype], _seconds(states, weight, dtype))
        flops += tokens * per_token
        seconds = {dtype: seconds[dtype] + fastest[dtype] for dtype in NAMES}
    return Rates(float32=flops / seconds[torch.float32], bf16=flops / seconds[torch.bfloat16])


def _seconds(states: Tensor, weight: Tensor, dtype: torch.dtype) -> float:
    """Return how long one product takes under ``autocast`` to ``dtype``, conversions included."""
    device = states.device
    _wait(device)
    began = time.perf_counter()
    with autocast(device, dtype):
        F.linear(states, weight)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    """Synchronise with the GPU; a CPU needs no waiting."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context of a forward pass: weights stay float32, products are in ``dtype``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def keep_for_next_step() -> None:
    """Keep what the steps on a CPU would make again and again: freed buffers, generated kernels.

    By default glibc returns large buffers to the system: each tensor is newly mapped and its pages
    are zeroed at first touch, which costs several times a pointwise operation. And oneDNN keeps
    1,024 of the kernels that it generates for each new shape; texts of all lengths need more.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))  # read at first use
    if not _has_glibc():
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_TRIM_THRESHOLD, -1)  # -1: never trim
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest value that older glibc accepts


def return_freed_memory() -> None:
    """Give freed buffers back to the system: resident memory is then what is in use."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
