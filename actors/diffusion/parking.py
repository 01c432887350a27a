"""Frozen modules that live in the host's memory and come to a GPU only while they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Parked:
    """Modules with a home on the host, pinned where they are to come to a GPU.

    A stay copies the weights there without waiting, and nothing back: they are frozen, so at its end the homes take their places again.
    Weights that several modules share are copied once, and shared on the device too.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self.device = device
        tables = [t for module in modules for part in module.modules() for t in (part._parameters, part._buffers)]
        places: list[tuple[dict, str]] = [(t, name) for t in tables for name, tensor in t.items() if tensor is not None]
        self.places: dict[Tensor, list[tuple[dict, str]]] = {}  # of each home
        for table, name in places:
            self.places.setdefault(table[name], []).append((table, name))
        if device.type == "cuda":
            self.places = {_like(home, home.detach().pin_memory()): at for home, at in self.places.items()}
            self._put({home: home for home in self.places})

    @contextmanager
    def stay(self) -> Iterator[None]:
        """Within it the modules are on the device."""
        self._put({home: _like(home, home.detach().to(self.device, non_blocking=True)) for home in self.places})
        try:
            yield
        finally:
            self._put({home: home for home in self.places})

    def _put(self, tensors: dict[Tensor, Tensor]) -> None:
        """In the places of every home the tensor that stands for it."""
        for home, at in self.places.items():
            for table, name in at:
                table[name] = tensors[home]


def _like(home: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, as a frozen parameter if the home is one."""
    return nn.Parameter(tensor, requires_grad=False) if isinstance(home, nn.Parameter) else tensor
