"""Check that Python finds this repository's own packages, before anything starts: others use such short names too."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from pipelines.config import UserError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("actors", "cluster", "pipelines")


def check_packages(root: Path = ROOT, packages: Iterable[str] = PACKAGES) -> None:
    """Raise UserError, naming the intruder, unless every package resolves under `root`.

    Packages are looked up, not imported. Left out: `toy`, which only the miniature world's recipe names.
    """
    for name in packages:
        # what lies on the path first, whatever was imported already; else what an editable installation knows
        found = _location(PathFinder.find_spec(name) or importlib.util.find_spec(name))
        wanted = root / name
        if found is None:
            raise UserError(f"The package {name!r} is not found. Start EchoRay from its root: cd {root}")
        if found.resolve() != wanted.resolve():
            raise UserError(
                f"The package {name!r} is found at {found}, but EchoRay's own is {wanted}. Another package of this name"
                f" comes first. Start from {root}, and take {found.parent} out of PYTHONPATH or uninstall it"
            )


def _location(spec: ModuleSpec | None) -> Path | None:
    """The folder of a package, or the file of a plain module."""
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin else None
