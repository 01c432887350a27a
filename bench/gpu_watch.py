"""What the parts of bench.gpu share: seconds and reserved memory of a call, and whether two calls gave the same bits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from bench.hardware import matrix_peak, wait

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """Of a call: what it gave, its seconds, and the most bytes that torch had reserved on the GPU meanwhile, the models among them."""

    value: T
    seconds: float
    reserved: int


def see(call: Callable[[], T], device: torch.device) -> Seen[T]:
    """Calls it, and waits for the device."""
    cuda = device.type == "cuda"
    wait(device.type)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    value = call()
    wait(device.type)
    seconds = time.perf_counter() - start
    return Seen(value, seconds, torch.cuda.max_memory_reserved() if cuda else 0)


def bits(*tensors: Tensor) -> str:
    """A hash of all bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def peak_of(device: torch.device, dtype: torch.dtype, tiny: bool) -> float:
    """FLOP/s of large matrix products; 0 where nothing is compared with it."""
    return 0.0 if tiny else matrix_peak(device.type, dtype)
