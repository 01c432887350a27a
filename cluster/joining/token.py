"""The token of a Ray that a run starts itself: in one file that its owner alone can read. Whoever holds it may do all that the run may."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cluster.errors import UserError

FILE_NAME = "ray_token"  # in the run folder
MODE, VALUE, PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
VARIABLES = (MODE, VALUE, PATH)  # how Ray is told, and how it tells the processes that it starts
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_token(path: Path) -> None:
    """Leave a token in `path`: the one that is there, or a new one if there is none or others could have read it.

    Raises UserError on a disk that does not keep files to their owner.
    """
    if _is_private(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    if not _is_private(path):
        path.unlink()
        raise UserError(
            f"{path} would hold the token of this run's Ray, but its disk does not keep a file to its owner: "
            f"give a folder on another disk, or a token of your own in {PATH} (a file)"
        )


def _is_private(path: Path) -> bool:
    """Whether it is a file with something in it, which belongs to this user and to nobody else."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return own and not found.st_mode & OTHERS and found.st_size > 0
