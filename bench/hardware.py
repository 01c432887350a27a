"""The machine under a benchmark: what it is, its clock, its peak of memory, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MB = 2**20
PEAK_SIZES = {"cpu": (1024, 2048), "cuda": (8192, 16384)}  # of the square matrices that are tried
PEAK_ROUNDS = {"cpu": 4, "cuda": 30}
MATMUL_ROUNDS = 200


def machine(device: str) -> dict[str, Any]:
    """Where this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")
    name = torch.cuda.get_device_name() if device == "cuda" else cpu
    threads = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    return {"device": name, **threads, "torch": torch.__version__, "matmul_gflop_per_s": matmul_gflop_per_s(device)}


def matmul_gflop_per_s(device: str) -> float:
    """The best of some float32 products of a thousand tokens with a thousand columns, 128 wide as the toy judge."""
    left, right = torch.randn(1024, 128, device=device), torch.randn(128, 1024, device=device)
    best = float("inf")
    for _ in range(MATMUL_ROUNDS):
        start = time.perf_counter()
        (left @ right)[-1, -1].item()
        best = min(best, time.perf_counter() - start)
    return 2 * 1024 * 1024 * 128 / best / 1e9


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some products of large square matrices: the most that a model can hope for on this machine."""
    return max(_square_flop_per_s(size, device, dtype) for size in PEAK_SIZES[device])


def _square_flop_per_s(size: int, device: str, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    seconds = take_turns({"": lambda: torch.mm(left, right, out=out)}, PEAK_ROUNDS[device], device)[""]
    return 2 * size**3 / min(seconds)


def clock_of(device: str) -> Callable[[], float]:
    """On one CPU thread the seconds are the process's own, so that other work on the machine counts less."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def wait(device: str) -> None:
    """Waits until a GPU has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def take_turns(ways: Mapping[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call of each way, interleaved, after one of each that does not count; a GPU's work is waited for."""
    clock = clock_of(device)
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            wait(device)
            start = clock()
            way()
            wait(device)
            seconds[name].append(clock() - start)
    return seconds


def median_of_pairs(slow: list[float], fast: list[float]) -> float:
    """How many times as long `slow` took, by the median of the turns: what slows down a whole turn drops out."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


@dataclass
class Peak:
    """Filled at the end of `peak_memory`."""

    mb: float = 0.0


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """The most memory that is in use within it beyond what was in use before: allocated by torch on a GPU, resident on a CPU.

    On a CPU it is less where memory is used again that the process had freed but kept.
    """
    peak = Peak()
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident_bytes("VmRSS")
    yield peak
    wait(device)
    most = torch.cuda.max_memory_allocated() if device == "cuda" else resident_bytes("VmHWM")
    peak.mb = (most - before) / MB


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
