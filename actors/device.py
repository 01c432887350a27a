"""Where a model runs and in which type of number, from the recipe's words; and the way of arrays to it and back."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from actors.mistake import Mistake
from actors.options import Device

DRIVER = Path("/proc/driver/nvidia/version")
Name = TypeVar("Name", bound=Hashable)
LEFT_FREE = 1 / 3  # of a process's share of a GPU's memory, for what comes and goes


def device_of_worker(name: Device, gpu_share: float) -> Device:
    """The device for a worker that holds so much of the GPUs: without any, `auto` is the CPU, whatever the process may see.

    Raises Mistake if it holds a GPU and sees none: on the CPU it would be a thousand times slower, and draw other bits.
    """
    if name == "auto" and not gpu_share:
        return "cpu"
    if gpu_share and name != "cpu" and not torch.cuda.is_available():
        raise Mistake(
            f"a worker with num_gpus = {gpu_share:g} on {socket.gethostname()} cannot use its GPU: {why_no_gpu()} (NVIDIA driver "
            f"{driver_version() or 'not found'}, torch {torch.__version__} for CUDA {torch.version.cuda or 'none'}). Install a torch "
            'build that this driver can run, or a newer driver; or set device = "cpu" or num_gpus = 0'
        )
    return name


def why_no_gpu() -> str:
    """What CUDA says when it is asked to start where torch sees no GPU."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build of torch for the CPU
        return str(error).strip().partition("\n")[0]
    return "torch sees no GPU"


def driver_version() -> str:
    """Of NVIDIA's kernel driver; empty where there is none."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[.\d]+)", DRIVER.read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def where(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Where and how a worker computes: what decides its speed, and its bits."""
    said = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    if device.type != "cuda":
        return said
    major, minor = torch.cuda.get_device_capability(device)
    return said | {
        "gpu": torch.cuda.get_device_name(device),
        "capability": f"{major}.{minor}",
        "memory_gib": round(torch.cuda.mem_get_info(device)[1] / 2**30, 1),
        "cuda": torch.version.cuda,
        "driver": driver_version(),
    }


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU that this process may see, else the CPU. Raises Mistake for "cuda" where no GPU is seen."""
    if name == "cuda" and not torch.cuda.is_available():
        raise Mistake(
            'device = "cuda", but a worker sees no GPU: give its pool num_gpus on a machine that has one, with a build of torch for '
            'CUDA, or set device = "auto" or "cpu"'
        )
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that computes in it, else float32; any other name is torch's own."""
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    return getattr(torch, name)


_memory_share = 1.0  # of its GPU that torch may take in this process


def limit_gpu_memory(share: float) -> None:
    """A process with a fraction of a GPU gets no more of its memory from torch; what exceeds it fails as out of memory.

    CUDA's own context, some hundred MiB, comes on top. Nothing happens for whole GPUs, or without one.
    """
    global _memory_share
    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
        _memory_share = share


def room_on(device: torch.device, num_bytes: int) -> bool:
    """Whether so much can stay on the device with LEFT_FREE of what this process may take there still free. A CPU has room."""
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    ours = int(total * _memory_share)
    return min(free, ours - torch.cuda.memory_reserved(device)) - num_bytes >= LEFT_FREE * ours


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The array on the device. A GPU gets it through pinned memory, without waiting for the copy."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; from a GPU through pinned memory, and there when this returns."""
    return all_to_host({"": tensor})[""]


def all_to_host(tensors: Mapping[Name, Tensor]) -> dict[Name, Tensor]:
    """The tensors on the CPU; from a GPU through pinned memory, with one wait for all of them."""
    there = [tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"]
    hosts = {name: _on_its_way(tensor) if tensor.device.type == "cuda" else tensor for name, tensor in tensors.items()}
    if there:
        torch.cuda.current_stream(there[0]).synchronize()
    return hosts


def _on_its_way(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
