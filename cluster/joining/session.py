"""Keeps Ray out of the signals that are meant for this program.

`timeout`, Slurm and a terminal send a signal to all processes of a group. Were Ray's own processes among them they would end
before the run, which would then wait for them and never get them.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray._private import services, utils


@contextmanager
def session_of_its_own() -> Iterator[None]:
    """Within it Ray begins a session for each process that it starts here, and SIGTERM stays with this program."""
    try:
        with (
            _replaced(services, "ConsolePopen", partial(subprocess.Popen, start_new_session=True)),
            _replaced(utils, "set_sigterm_handler", _ignore),
        ):
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray's C++ has taken it from Python: it would print a stack and end the process
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextmanager
def _replaced(where: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


def _ignore(handler: Callable[..., None]) -> None:
    """Ray's handlers end the process, with exit code 1 or 15."""
