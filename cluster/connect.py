"""Joins a Ray cluster, or starts one on this machine, the same way every time."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from cluster.joining.address import CannotJoin, check_address, lets_in, speaks_plainly
from cluster.joining.here import clusters_here
from cluster.joining.machine import CannotStart, check_machine
from cluster.joining.session import session_of_its_own
from cluster.joining.token import FILE_NAME, MODE, PATH, VALUE, VARIABLES, keep_token

ROOT = Path(__file__).resolve().parent.parent

# Ray's defaults would report usage, resolve the environment again in every worker under `uv run`, and start a worker for each CPU
# before any is asked for: none of them is ever used, since all workers have an environment of their own (`worker_env`).
_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_prestart_worker_first_driver": "0",
}
CLIENT = "ray://"


def connect(
    num_cpus: int | None = None,
    object_store_bytes: int | None = None,
    dashboard: bool = False,
    token_file: Path | None = None,
) -> str:
    """Join the cluster at RAY_ADDRESS, which Ray also sets inside a job; without it, start one for this process.

    Returns a line for the user that says who may call this cluster. A process that has joined one stays where it is.

    The arguments describe a cluster that is started here: logical CPUs (default: the machine's cores), the object
    store's size, whether to start the dashboard, and where its token is kept (default: as long as this process lives). What
    the environment already sets is left as it is.

    Raises CannotJoin, CannotStart, and UserError where the token could not be kept from others.
    """
    if ray.is_initialized():
        return ""
    set_defaults()
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address not in ("", "local"):
        return join(_only_one_here() if address == "auto" else address, "RAY_ADDRESS", access={})
    store_bytes = check_machine(object_store_bytes)
    who = _guard(token_file)
    with session_of_its_own():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=store_bytes,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
        )
    return who


def visit(address: str, source: str) -> None:
    """Join a cluster as a visitor who starts nothing; one on this machine with its own token. Raises CannotJoin."""
    set_defaults()
    ray.shutdown()
    join(address, source, clusters_here().get(address, {}), log_to_driver=False)


def join(address: str, source: str, access: Mapping[str, str], log_to_driver: bool = True) -> str:
    """Join the cluster at an address that the user gave as `source`; a line that says who may call it. Raises CannotJoin, soon.

    access: variables to take where those of the environment do not let this process in.
    """
    check_address(address, source)
    who = "" if address.startswith(CLIENT) or not speaks_plainly() else _show_token(address, source, access)
    try:
        with session_of_its_own():
            ray.init(address=address, logging_level=logging.WARNING, log_to_driver=log_to_driver)
    except (ConnectionError, AuthenticationError, RuntimeError, ValueError) as error:
        raise CannotJoin(f"the Ray cluster at {address} ({source}) cannot be joined: {error}") from error
    return who


def set_defaults() -> None:
    """Settle what Ray would settle otherwise. Who gives a token in the environment means it."""
    if {VALUE, PATH} & os.environ.keys() and MODE not in os.environ:
        _use({name: os.environ[name] for name in (VALUE, PATH) if name in os.environ} | {MODE: "token"})
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def worker_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables of every worker.

    PYTHONPATH: workers import from the repository's root, wherever the driver was started. (In a job with a working_dir
    Ray puts that first.) OMP_NUM_THREADS: Ray would set it to the worker's num_cpus, and another number of threads sums
    in another order, so that the size of a pool would change the bytes. RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO: Ray hides the GPUs
    from a worker that asks for none. PYTORCH_ALLOC_CONF: torch's allocator grows its blocks, since captions have many lengths, whose
    gaps would add up.
    """
    paths = [str(ROOT), *environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "PYTORCH_ALLOC_CONF": environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
    }


def _guard(token_file: Path | None) -> str:
    """Let the Ray that is started next ask for a token; a line that says which."""
    if os.environ.get(MODE, "token").lower() != "token":
        return f"warning: Ray requires no token ({MODE}={os.environ[MODE]}): anyone who reaches this machine can run code as you"
    if given := [name for name in (VALUE, PATH) if os.environ.get(name)]:
        if given[0] == PATH:
            _check_token_file(Path(os.environ[PATH]))
        return f"Ray starts on this machine; it asks for the token that {given[0]} gives"
    if token_file is None:
        token_file = Path(tempfile.mkdtemp(prefix="echoray-")) / FILE_NAME
        atexit.register(shutil.rmtree, token_file.parent, ignore_errors=True)
    keep_token(token_file)
    _use({MODE: "token", PATH: str(token_file.absolute())})
    return f"Ray starts on this machine; it asks for the token in {token_file}, which only you can read"


def _check_token_file(file: Path) -> None:
    """Raises CannotStart where the file of a token that the user gave cannot be read."""
    try:
        found = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise CannotStart(
            f"{PATH} = {str(file)!r} cannot be read ({error}): give the file of a token, or unset it"
        ) from None
    if not found:
        raise CannotStart(f"{PATH} = {str(file)!r} is empty: write a token into it, or unset it")


def _show_token(address: str, source: str, access: Mapping[str, str]) -> str:
    """Settle the token for a cluster, if it asks for one; a line that says whether it does. Raises CannotJoin without the right one."""
    if lets_in(address, source):
        return f"warning: the Ray cluster at {address} has no authentication: anyone who reaches it can run code there"
    given = _token()
    if not (given and lets_in(address, source, given)):
        if access:
            _use(access)
        if not access or not lets_in(address, source, _token()):
            what = "the one given here is another" if given else "none is given here"
            raise CannotJoin(
                f"the Ray cluster at {address} ({source}) asks for a token, and {what}: set {MODE}=token, and {VALUE} or {PATH} "
                "(a file) to the cluster's token"
            )
    return f"joined the Ray cluster at {address}, which asks for a token"


def _token() -> str:
    """What the environment gives; "" if that is none, or no token is to be used."""
    try:
        return AuthenticationTokenLoader.instance().get_raw_token()
    except AuthenticationError:  # no such file, or nothing in it
        return ""


def _use(variables: Mapping[str, str]) -> None:
    """Take these for Ray's variables of authentication, in this process and in those that it starts."""
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(variables)
    Config.initialize("")  # Ray reads the mode, and then the token, only once
    AuthenticationTokenLoader.instance().reset_cache()


def _only_one_here() -> str:
    """The address of the cluster on this machine. Raises CannotJoin if there is none, or more than one."""
    found = list(clusters_here())
    if len(found) != 1:
        there = f"several run on this machine, {', '.join(found)}" if found else "none runs on this machine"
        raise CannotJoin(
            f"RAY_ADDRESS is auto, but of Ray clusters {there}: give HOST:PORT, or none to start one for this run"
        )
    return found[0]
