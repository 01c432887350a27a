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
            for home in list(self.places):  # one by one, so that the host never holds all of them twice
                at = self.places.pop(home)
                pinned = _like(home, home.detach().pin_memory())
                self.places[pinned] = at
                _put(pinned, at)

    @contextmanager
    def stay(self) -> Iterator[None]:
        """Within it the modules are on the device."""
        for home, at in self.places.items():
            _put(_like(home, home.detach().to(self.device, non_blocking=True)), at)
        try:
            yield
        finally:
            for home, at in self.places.items():
                _put(home, at)


def _put(tensor: Tensor, at: list[tuple[dict, str]]) -> None:
    """Into these places of modules."""
    for table, name in at:
        table[name] = tensor


def _like(home: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, as a frozen parameter if the home is one."""
    return nn.Parameter(tensor, requires_grad=False) if isinstance(home, nn.Parameter) else tensor
