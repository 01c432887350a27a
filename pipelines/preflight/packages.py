"""Whether Python finds this repository's own packages: asked before any of them is loaded, for others use such short names too."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("actors", "cluster", "pipelines")


def problem(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> str | None:
    """The first package that does not lie under `root`, with the intruder and what to do; None if all do.

    Packages are looked up, not imported. Left out: `toy`, which only the miniature world's recipe names.
    """
    for name in packages:
        # what lies on the path first, whatever was imported already; else what an editable installation knows
        found = _location(PathFinder.find_spec(name) or importlib.util.find_spec(name))
        wanted = root / name
        if found is None:
            return f"The package {name!r} is not found. Start EchoRay from its root: cd {root}"
        if found.resolve() != wanted.resolve():
            return (
                f"The package {name!r} is found at {found}, but EchoRay's own is {wanted}. Another package of this name"
                f" comes first. Start from {root}, and take {found.parent} out of PYTHONPATH or uninstall it"
            )
    return None


def _location(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a plain module."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
