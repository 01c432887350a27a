"""Where and with what a run was started: an event at each start, which the report shows."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from actors.paths import ROOT
from pipelines.run_folder.events import Started
from pipelines.run_folder.roster import Roster

PACKAGES = ("torch", "transformers", "diffusers", "peft", "deepspeed", "ray", "numpy")


def provenance(command: str, roster: Roster) -> Started:
    """The command, machine, versions and revision of this start, and on what the workers of each pool compute."""
    return Started(
        command=command,
        host=socket.gethostname(),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        git_revision=git_revision(),
        versions=versions(),
        workers=roster.pools(),
    )


def versions() -> dict[str, str]:
    """Of Python and of what computes, as they are installed here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision(root: Path = ROOT) -> str | None:
    """The commit that is shipped, "-dirty" if files differ from it; None outside of git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout.strip()
