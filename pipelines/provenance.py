"""Where and with what a run was started: an event at each start, which the report shows."""

from __future__ import annotations

import os
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipelines.roster import Roster
from pipelines.shipping import git_revision

PACKAGES = ("torch", "transformers", "diffusers", "peft", "deepspeed", "ray", "numpy")


def provenance(command: str, roster: Roster) -> dict[str, Any]:
    """The command, machine, versions and revision of this start, and on what the workers of each pool compute."""
    return {
        "command": command,
        "host": socket.gethostname(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "git_revision": git_revision(),
        "versions": versions(),
        "workers": roster.pools(),
    }


def versions() -> dict[str, str]:
    """Of Python and of what computes, as they are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
