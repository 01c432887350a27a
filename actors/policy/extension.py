"""The C++ extension that DeepSpeed's CPU backend compiles when it first meets other ranks: built once per node, and nobody can hang.

Torch guards such a build with a plain file, which stays when the builder is killed, and then every later process waits for ever.
Here a lock of the kernel's stands before it, which ends with its holder; whoever holds it may remove what a dead one left.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

FOLDER_VARIABLE = "ECHORAY_EXTENSIONS"
READY, BUILDING = "ready", "building-"
TORCH_LOCK = "lock"

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Where this environment's build lies: below $ECHORAY_EXTENSIONS, or the user's cache, named by versions and place of packages."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get(FOLDER_VARIABLE) or cache / "echoray" / "extensions")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return root / f"deepspeed-{version('deepspeed')}-torch-{version('torch')}-python-{python}-{place}"


def load() -> None:
    """Loads the extension into this process; the first one on a node builds it, others wait for it. Sets TORCH_EXTENSIONS_DIR.

    Call it before DeepSpeed meets other ranks: DeepSpeed then finds it loaded. Where it cannot be built, a warning says why and
    DeepSpeed is told to do without it: ZeRO communicates through gloo, the extension is for inference.
    """
    from deepspeed.ops import __compatible_ops__
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    builder = ShareMemCommBuilder()
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    ready = place / READY
    with _lock(place / "held"), _tools_on_path():
        for leftover in place.glob(f"{BUILDING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        source = ready if ready.exists() else Path(tempfile.mkdtemp(prefix=BUILDING, dir=place))
        (source / builder.NAME / TORCH_LOCK).unlink(missing_ok=True)
        os.environ["TORCH_EXTENSIONS_DIR"] = str(source)
        try:
            builder.load()
        except Exception as error:
            logger.warning("%s cannot be built in %s; going on without it: %s", builder.NAME, place, error)
            __compatible_ops__[builder.NAME] = False
        else:
            source.rename(ready)
        os.environ["TORCH_EXTENSIONS_DIR"] = str(ready)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of this node at a time; the kernel releases it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _tools_on_path() -> Iterator[None]:
    """Lets torch find the ninja that lies beside this Python, whose folder is not on the path unless the environment is activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{before}{os.pathsep}{Path(sys.executable).parent}"
    try:
        yield
    finally:
        os.environ["PATH"] = before
