"""Python runs this first where this folder is on PYTHONPATH: the first `import torch` then brings the simulated device with it."""

import ctypes
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = ("libc10.so", "libtorch_cpu.so")  # what guard.cpp is linked to, found before torch itself loads them


class TorchWithDevice(Loader):
    """Loads torch between the library, which must be there before it, and the device, which is made of it."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.folder, self.loader = Path(str(spec.origin)).parent, spec.loader

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name in LIBRARIES:
            ctypes.CDLL(str(self.folder / "lib" / name), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(os.environ["SIMCUDA_LIBRARY"], ctypes.RTLD_GLOBAL)
        assert self.loader is not None
        self.loader.exec_module(module)
        from tests.support.simcuda.switch import switch_on

        switch_on()


class Finder(MetaPathFinder):
    """Finds torch alone."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        spec.loader = TorchWithDevice(spec)
        return spec


sys.meta_path.insert(0, Finder())
