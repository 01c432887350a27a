"""What a machine must offer before a Ray is started on it: without it Ray ends in the middle of its start, or works on a disk."""

from __future__ import annotations

import os
import resource

from ray._common.utils import get_default_system_temp_dir
from ray._private.utils import estimate_available_memory, resolve_object_store_memory

from cluster.errors import UserError

SHM = "/dev/shm"
LEAST_STORE_BYTES = 128 * 2**20  # Docker's containers get 64 MiB unless they ask, and Ray would then use the disk
USABLE = 0.95  # of what is free there now, as Ray reckons
SLOW_STORE = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"
# Ray's node opened 78 files for five workers, and five for each further one; Ray lifts the soft limit to the hard one itself
OPEN_FILES = 1024
SOCKET_PATH_BYTES = 107
LONGEST_SOCKET = "ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"


class CannotStart(UserError):
    """No Ray can be started on this machine; the text says what is needed and what to set."""


def check_machine(store_bytes: int | None) -> int | None:
    """The size of the object store: the given one, or what Ray would take, as far as it fits. Raises CannotStart."""
    check_temp_dir(get_default_system_temp_dir())
    check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    if os.environ.get(SLOW_STORE) == "1":
        return store_bytes
    free = free_shm_bytes()
    check_store(store_bytes or LEAST_STORE_BYTES, free)
    return store_bytes or min(free, resolve_object_store_memory(estimate_available_memory()))


def check_store(wanted_bytes: int, free_bytes: int) -> None:
    """Raises CannotStart unless the machine's shared memory holds an object store of this size."""
    if wanted_bytes > free_bytes:
        raise CannotStart(
            f"{SHM} has room for {free_bytes / 2**20:.0f} MiB, and Ray's object store needs {wanted_bytes / 2**20:.0f} MiB there: "
            "give a container more (docker run --shm-size=2g), remove what lies there, lower cluster.object_store_mb, or let the "
            f"store lie on a disk, which is slow, by {SLOW_STORE}=1"
        )


def free_shm_bytes() -> int:
    """What an object store may take of the shared memory."""
    found = os.statvfs(SHM)
    return int(USABLE * found.f_bsize * found.f_bavail)


def check_open_files(limit: int) -> None:
    """Raises CannotStart unless a process may open as many files as Ray's need."""
    if limit != resource.RLIM_INFINITY and limit < OPEN_FILES:
        raise CannotStart(
            f"a process may open {limit} files here, and Ray's processes need {OPEN_FILES}: raise the limit (ulimit -n {OPEN_FILES} as "
            "root, docker run --ulimit nofile=65536:65536, or LimitNOFILE= of a systemd unit)"
        )


def check_temp_dir(path: str) -> None:
    """Raises CannotStart if the sockets in Ray's folder below `path` would have longer names than a socket may have."""
    longest = SOCKET_PATH_BYTES - len(os.fsencode(os.path.join("/", LONGEST_SOCKET)))
    length = len(os.fsencode(path.rstrip("/")))
    if length > longest:
        raise CannotStart(
            f"the folder for temporary files, {path}, has a name of {length} bytes, and Ray's sockets below it allow {longest}: "
            "set RAY_TMPDIR to a folder of this machine with a shorter name, such as /tmp"
        )
