"""What every process that computes with a model sets before it loads one. Importable without torch."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from actors.options import Device

# What cuBLAS and NCCL need to give the same bits again; they read it when they start.
EXACT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "Ring", "NCCL_NVLS_ENABLE": "0"}

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class Process:
    """How a process computes: what it has of the machine, and how exact it must be.

    threads: torch's (None: as many as it likes). gpu_share: the GPUs that a worker holds (None: no worker, any GPU will do).
    deterministic: the same bits again on the same kind of GPU.
    """

    threads: int | None = None
    gpu_share: float | None = None
    deterministic: bool = True


def prepare(process: Process, device: Device = "auto") -> Device:
    """Readies this process, before CUDA starts; returns the device that its model is for, in a recipe's words.

    Fixes torch's number of threads, which decides the bytes on a CPU, and its algorithms, which decide them on a GPU; silences the
    libraries' loading messages. A worker that holds no GPU computes on the CPU, one that shares a GPU keeps to its share of the
    memory. Raises Mistake for one that holds a GPU and sees none.
    """
    quiet()
    compute_exactly(process.deterministic)
    import torch

    from actors.device import device_of_worker, limit_gpu_memory

    if process.threads is not None:
        torch.set_num_threads(process.threads)
    if process.gpu_share is None:
        return device
    device = device_of_worker(device, process.gpu_share)
    limit_gpu_memory(process.gpu_share)
    return device


def compute_exactly(wanted: bool) -> None:
    """Makes torch, cuBLAS and NCCL give the same bits for the same input on the same kind of GPU, or leaves them their fastest way.

    An operation of which torch has no such form then raises, and names itself. On a CPU nothing changes.
    """
    if wanted:
        for name, value in EXACT.items():
            os.environ.setdefault(name, value)
    import torch

    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    matmul = torch.backends.cuda.matmul
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = not wanted


def quiet() -> None:
    """Silences what the libraries say while they load: what does not fit is reported as a mistake (actors/models/weights.py).

    Diffusers' progress bar is the image models' own affair (actors/diffusion/family.py): a judge runs without diffusers.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("DeepSpeed").addFilter(_errors_alone)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _errors_alone(record: logging.LogRecord) -> bool:
    """DeepSpeed sets its own level when it is imported, and says at each import that there is no GPU."""
    return record.levelno >= logging.ERROR


def leaves_room(method: Method) -> Method:
    """Decorates a worker's method: when it ends for lack of GPU memory, what torch's allocator keeps for later is given back.

    Else the gaps in it would fail the next task as well. The tensors of the task go first, which its traceback holds.
    """

    @wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            import torch

            if isinstance(error, torch.OutOfMemoryError):
                traceback.clear_frames(error.__traceback__)
                torch.cuda.empty_cache()
            raise

    return run  # type: ignore[return-value]
