"""Builds guard.cpp against the headers of the torch that is installed. Importable without torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")
ROOT = Path(__file__).resolve().parents[3]
STARTUP = Path(__file__).with_name("startup")
LIBRARY = "SIMCUDA_LIBRARY"  # the variable that tells a process which library to load


def torch_folder() -> Path:
    """Where torch is installed, without importing it."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def can_build() -> bool:
    """Whether this machine has the compiler."""
    return shutil.which("g++") is not None


def library() -> Path:
    """The built library, made once for each version of torch and of the source. Raises CalledProcessError if it does not compile."""
    marks = SOURCE.read_bytes() + importlib.metadata.version("torch").encode() + sys.version.encode()
    folder = Path(tempfile.gettempdir()) / f"simcuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    made = folder / f"{hashlib.sha256(marks).hexdigest()[:16]}.so"
    if not made.exists():
        torch = torch_folder()
        includes = [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
        links = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            built = Path(temporary) / "guard.so"
            options = ["-O1", "-fPIC", "-shared", "-std=c++20"]
            subprocess.run(["g++", *options, str(SOURCE), *includes, *links, "-o", str(built)], check=True)
            built.rename(made)  # whole or not at all, should two processes build at once
    return made


def surroundings() -> dict[str, str]:
    """The environment of a process, and of those that it starts, whose torch has the device.

    What ZeRO's ranks of earlier tests left in this process's environment, that DeepSpeed is to use the CPU, does not reach it.
    """
    paths = [str(STARTUP), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    return {**environment, "PYTHONPATH": os.pathsep.join(paths), LIBRARY: str(library())}
