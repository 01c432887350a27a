"""Whether the weights of a recipe's local models fit, before any worker starts.

The answer needs torch, which no driver loads, and seconds: it is asked in a process of its own (actors/fits.py), once for the same
headers, configs and libraries. That a pair fits is kept as an empty file in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from actors.fits import Folders, Misfits, misfits

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("transformers", "diffusers", "peft", "torch")
HEADER = 8  # bytes that say how long a header is


def find_misfits(folders: Folders) -> Misfits | None:
    """What does not fit in each folder, as `misfits` says it; None where it cannot be asked, for want of a library.

    Where torch is loaded already, as in tests, it is asked in this process. Raises ValueError if the process that is asked breaks down.
    """
    stamp = _cache() / _fingerprint(folders)
    if not folders or stamp.is_file():
        return (None,) * len(folders)
    found = misfits(folders) if "torch" in sys.modules else _asked(folders)
    if found is not None and not any(found):
        with suppress(OSError):  # then it is asked again next time
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
    return found


def _asked(folders: Folders) -> Misfits | None:
    command = [
        sys.executable,
        "-m",
        "actors.fits",
        *(word for named in folders for word in (named.kind, named.model, named.family or "")),
    ]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    child = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    if child.returncode:
        if "ModuleNotFoundError" in child.stderr:
            return None
        last = (child.stderr.strip() or "it said nothing").splitlines()[-1]
        raise ValueError(
            f"whether its weights fit was not found out: the process that read them ended with {child.returncode}: {last}"
        )
    return tuple(json.loads(child.stdout.splitlines()[-1]))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "echoray" / "fitting-weights"


def _fingerprint(folders: Folders) -> str:
    """A hash of all that the answer depends on."""
    digest = hashlib.sha256("".join(f"{name} {_version(name)}\n" for name in LIBRARIES).encode())
    digest.update(" ".join(named.family or "" for named in folders).encode())
    for file in (file for named in folders for file in _files(Path(named.model))):
        with file.open("rb") as stream:
            data = stream.read(HEADER)
            data += stream.read(int.from_bytes(data, "little")) if file.suffix == ".safetensors" else stream.read()
        digest.update(f"{file.parent.name}/{file.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _files(folder: Path) -> Iterator[Path]:
    """Descriptions, indices and weights of a model and of its parts."""
    for pattern in ("*config.json", "*index*.json", "*.safetensors"):
        yield from sorted(folder.glob(pattern))
        yield from sorted(folder.glob(f"*/{pattern}"))
