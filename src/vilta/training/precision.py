"""Where and in which number format a step is computed, and what large buffers cost on a CPU."""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Literal

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names: auto, cpu, or cuda, which must be there then."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("--device cuda: torch finds no CUDA device; use auto or cpu")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """Name a device for people: the GPU, or the number of CPU threads and the machine's type."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


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
    precision: Literal["auto", "bf16", "float32"], device: torch.device
) -> tuple[torch.dtype, str]:
    """Return the dtype to compute in, and the sentence that tells the user why."""
    unit = native_bf16(device)
    if precision == "float32" or (precision == "auto" and not unit):
        reason = "as asked" if precision == "float32" else "no native bf16 here"
        return torch.float32, f"float32 ({reason})"
    return torch.bfloat16, f"bf16 ({unit or 'emulated: float32 is likely faster here'})"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context of a forward pass: weights stay float32, products are in ``dtype``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def keep_freed_memory() -> None:
    """Let glibc keep freed buffers for the next step instead of returning them to the system.

    By default each large tensor on a CPU is mapped anew and its pages are zeroed at first touch,
    several times dearer than a pointwise operation itself. Does nothing where there is no glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_TRIM_THRESHOLD, -1)  # -1: never trim
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest value that older glibc accepts
