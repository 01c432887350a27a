"""Where a path in a recipe leads."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository


def located(path: str) -> str:
    """Where a relative path leads: from the current folder if there is something, else from the repository's root.

    A path that is nowhere, a URL and a hub name stay as they are.
    """
    inside = path and not Path(path).is_absolute() and ".." not in Path(path).parts
    return str(ROOT / path) if inside and not os.path.exists(path) and os.path.exists(ROOT / path) else path


def home_resolved(path: str) -> str:
    """The path with the home folder for `~`. Raises ValueError if there is no such user."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"there is no user {path.partition('/')[0][1:]!r} (a folder of that name is ./{path})")
    return found


def portable(path: str) -> str:
    """The same for the same thing in the repository, whatever the current folder and wherever the repository lies."""
    there = Path(path).absolute()
    return there.relative_to(ROOT).as_posix() if there.is_relative_to(ROOT) and there.exists() else path
