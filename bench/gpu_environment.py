"""The machine, first of all: whether torch can use the GPU, what it is, how fast it multiplies, and how fast bytes get there."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from actors.device import pick_device, pick_dtype, where
from bench.gpu_case import GIB, Case
from bench.hardware import matrix_peak, wait

PACKAGES = ("torch", "transformers", "diffusers", "peft", "pydantic", "numpy", "triton")
COPIED = 2**28  # bytes


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is there. Raises RuntimeError where the device that was asked for cannot be used."""
    yield "packages", {name: version for name in PACKAGES if (version := _version(name))}
    if case.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} for CUDA {torch.version.cuda} sees no GPU: {_why()}")
    device = pick_device(case.device)
    dtype = pick_dtype("auto", device)
    yield "device", where(device, dtype)
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info()
        yield "memory", {"free_gib": free / GIB, "whole_gib": whole / GIB, "gpus": torch.cuda.device_count()}
    wide = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    for name, kind in wide.items():
        if not case.tiny and (device.type == "cuda" or kind == torch.float32):
            yield f"matrix product, {name}", {"tflop_per_s": matrix_peak(device.type, kind) / 1e12}
    for name, pinned in (("pageable", False), ("pinned", True)):
        yield (
            f"copy from {name} memory",
            {"gb_per_s": _copying(device, pinned, COPIED // 64 if case.tiny else COPIED) / 1e9},
        )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _why() -> str:
    from actors.device import driver_version, why_no_gpu

    return f"{why_no_gpu()} (NVIDIA driver {driver_version() or 'not found'})"


def _copying(device: torch.device, pinned: bool, size: int) -> float:
    """Bytes per second to the device, the best of some."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=pinned and device.type == "cuda")
    there = torch.empty_like(host, device=device)

    def seconds(copy: Callable[[], Any]) -> float:
        wait(device.type)
        start = time.perf_counter()
        copy()
        wait(device.type)
        return time.perf_counter() - start

    return host.numel() / min(seconds(lambda: there.copy_(host, non_blocking=True)) for _ in range(3))
