"""Switches the simulated device on: torch.cuda's functions as one GPU would answer, and the modes that make its tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
import torch.cuda
import torch.cuda.nvtx
import torch.distributed as dist

from tests.support.simcuda import events
from tests.support.simcuda.tensor import Functions, Operators, is_pinned, pin, remember_pinned

MEMORY = 2**36  # bytes: 64 GiB


class Stream:
    """The only stream."""

    device, cuda_stream = torch.device("cuda", 0), 0

    def synchronize(self) -> None:
        events.note("wait", "stream.synchronize", True)

    def wait_stream(self, stream: Any) -> None:
        """Nothing is ever late here."""

    wait_event = record_event = wait_stream


class CudaEvent:
    """A point in the stream."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        """Nothing is measured here."""

    wait = record

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        events.note("wait", "event.synchronize", True)

    def elapsed_time(self, other: Any) -> float:
        return 0.0


class Generator(torch.Generator):
    """Of random numbers, which are the CPU's for every device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)


STREAM = Stream()
PROPERTIES = SimpleNamespace(name="make-believe", major=9, minor=0, total_memory=MEMORY, multi_processor_count=1)
ANSWERS: dict[str, Any] = {
    "_lazy_init": None,
    "current_device": 0,
    "current_stream": STREAM,
    "default_stream": STREAM,
    "device_count": 1,
    "empty_cache": None,
    "get_device_capability": (9, 0),
    "get_device_properties": PROPERTIES,
    "get_device_name": PROPERTIES.name,
    "is_available": True,
    "is_bf16_supported": True,
    "is_initialized": True,
    "manual_seed": None,
    "manual_seed_all": None,
    "max_memory_allocated": 0,
    "max_memory_reserved": 0,
    "mem_get_info": (MEMORY, MEMORY),
    "memory_allocated": 0,
    "memory_reserved": 0,
    "memory_stats": {},
    "reset_peak_memory_stats": None,
    "set_device": None,
    "set_per_process_memory_fraction": None,
    "set_stream": None,
    "stream": nullcontext(),
}


def switch_on() -> None:
    """For the rest of this process, in this thread and those that it starts."""
    for name, value in ANSWERS.items():
        setattr(torch.cuda, name, _answer(value))
    torch.cuda.synchronize = lambda device=None: events.note("wait", "synchronize", True)
    torch.cuda.set_sync_debug_mode = lambda mode: setattr(events, "mode", mode)  # type: ignore[assignment]
    torch.cuda.Event = CudaEvent  # type: ignore[misc, assignment]
    torch.cuda.Stream = Stream  # type: ignore[misc, assignment]
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = _answer(None)
    torch.Tensor.pin_memory = lambda self, device=None: pin(self)  # type: ignore[assignment, method-assign]
    torch.Tensor.is_pinned = lambda self, device=None: is_pinned(self)  # type: ignore[assignment, method-assign]
    torch.Tensor.record_stream = _answer(None)  # type: ignore[assignment, method-assign]
    torch.inference_mode = lambda mode=True: torch.no_grad() if mode else nullcontext()  # wrapped tensors know no other
    torch.Generator = Generator  # type: ignore[misc]
    _let_empty_pin()
    _let_modules_move()
    _let_gloo_stand_in()
    _let_threads_follow()
    _enter_modes()


def _enter_modes() -> None:
    Functions().__enter__()
    Operators().__enter__()


def _answer(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


def _let_empty_pin() -> None:
    """A CPU build of torch has no page-locked memory to give."""
    empty = torch.empty

    def pinning(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        return remember_pinned(made) if pin_memory else made

    torch.empty = pinning  # type: ignore[assignment]


def _let_modules_move() -> None:
    """A module on its way to the device gets new parameters, since one of a class of tensors cannot become one of another."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    to = torch.nn.Module.to

    def moving(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
        tensors = [*self.parameters(), *self.buffers()]
        if device is not None and dtype is None and all(tensor.device.type == device.type for tensor in tensors):
            return self  # as without the switch: a move to where it is keeps its parameters
        return to(self, *args, **kwargs)

    torch.nn.Module.to = moving  # type: ignore[method-assign]


def _let_gloo_stand_in() -> None:
    """For NCCL, which a CPU build does not have."""
    join = dist.init_process_group

    def joining(backend: str, *args: Any, **kwargs: Any) -> None:
        join("gloo" if backend == "nccl" else backend, *args, **kwargs)

    dist.init_process_group = joining
    dist.is_nccl_available = _answer(True)


def _let_threads_follow() -> None:
    """Modes are a thread's own, and models are loaded by several."""
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def beginning(self: threading.Thread) -> None:
        _enter_modes()
        begin(self)

    threading.Thread._bootstrap_inner = beginning  # type: ignore[attr-defined]
