"""The Ray clusters that have a node on this machine, with what lets this user in: both read from the nodes' processes."""

from __future__ import annotations

from pathlib import Path

from cluster.joining.token import VARIABLES

GCS_FLAG = "--gcs-address="


def clusters_here() -> dict[str, dict[str, str]]:
    """By address: the variables of a node that say whether Ray asks for a token, and where that is. Also of what runs started.

    Another user's processes keep their variables to themselves. Ray's own search, address="auto", trusts a file that outlives
    a cluster, and then tries for minutes to join a dead one.
    """
    found: dict[str, dict[str, str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        program, *arguments = _words(process / "cmdline") or [""]
        if program.endswith("/raylet"):
            variables = dict(word.split("=", 1) for word in _words(process / "environ") if "=" in word)
            access = {name: variables[name] for name in VARIABLES if name in variables}
            found |= {it.removeprefix(GCS_FLAG): access for it in arguments if it.startswith(GCS_FLAG)}
    return dict(sorted(found.items()))


def _words(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has just ended, or is not ours to see
        return []
