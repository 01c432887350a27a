"""Whether this Python can run EchoRay: asked before any package is loaded, which might break in a less clear way."""

from __future__ import annotations

import sys
from importlib.util import find_spec

OLDEST = (3, 11)
PACKAGES = ("numpy", "pydantic", "rich")  # of those that the installation brings, what every program needs
VENV = "`make venv` makes one that can: .venv/bin/python"


def problem() -> str | None:
    """What is wrong with it and what to do; None if nothing is."""
    here = f"{sys.executable} ({'.'.join(map(str, sys.version_info[:3]))})"
    if sys.version_info < OLDEST:
        return f"{here} is too old: EchoRay needs Python {'.'.join(map(str, OLDEST))} or newer; {VENV}"
    if sys.flags.optimize:
        return (
            "Python is started with -O or PYTHONOPTIMIZE, which takes out checks, and with -OO docstrings that the model "
            "libraries read: start it without"
        )
    missing = [name for name in PACKAGES if find_spec(name) is None]  # no later syntax here than old Pythons know
    if missing:
        why = "-S hides them: start it without" if sys.flags.no_site else VENV
        return f"{here} does not find {', '.join(missing)}; {why}"
    return None
