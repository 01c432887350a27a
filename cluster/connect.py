"""Joins a Ray cluster, or starts one on this machine, the same way every time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError

ROOT = Path(__file__).resolve().parent.parent

# Ray's defaults would write a token under the home directory (and then refuse a later `ray start`), report usage, and
# resolve the environment again in every worker under `uv run`.
_DEFAULTS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

CONNECT_S = 5.0
GCS_FLAG = "--gcs-address="


def connect(num_cpus: int | None = None, object_store_bytes: int | None = None, dashboard: bool = False) -> None:
    """Join the cluster at RAY_ADDRESS, which Ray also sets inside a job; without it, start one for this process.

    A process that has joined one stays where it is.

    The arguments describe a cluster that is started here: logical CPUs (default: the machine's cores), the object
    store's size, and whether to start the dashboard. What the environment already sets is left as it is.
    """
    if ray.is_initialized():
        return
    set_defaults()
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
        )


def join(address: str) -> None:
    """Join a cluster as a visitor who starts nothing. Raises ConnectionError, soon, where none answers or lets this in."""
    if not answers(address):  # Ray itself would try for minutes
        raise ConnectionError(f"no Ray cluster answers at {address}")
    set_defaults()
    ray.shutdown()
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, AuthenticationError) as error:
        raise ConnectionError(
            f"the Ray cluster at {address} does not let this in ({str(error).partition('. ')[0]}). If it asks for a token, set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (a file) to the cluster's token"
        ) from error


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError):
        return False
    return True


def clusters_here() -> list[str]:
    """The addresses of the clusters that have a node on this machine, also of those that a run has started for itself.

    Ray's own search, address="auto", trusts a file that outlives a cluster, and then tries for minutes to join a dead one.
    """
    addresses = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just ended, or is not ours to see
            continue
        if program.endswith("/raylet"):
            addresses |= {it.removeprefix(GCS_FLAG) for it in arguments if it.startswith(GCS_FLAG)}
    return sorted(addresses)


def set_defaults() -> None:
    """Settle what Ray would settle otherwise. Who gives a token in the environment means it."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def worker_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables of every worker.

    PYTHONPATH: workers import from the repository's root, wherever the driver was started. (In a job with a working_dir
    Ray puts that first.) OMP_NUM_THREADS: Ray would set it to the worker's num_cpus, and another number of threads sums
    in another order, so that the size of a pool would change the bytes.
    """
    paths = [str(ROOT), *environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1"),
    }
