"""Being asked to stop: Ctrl-C, SIGTERM (`timeout`, Slurm, systemd, Kubernetes) and SIGHUP (a terminal that closes)."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = 130  # the exit code of a program that was asked to stop
SAME_S = (
    1.0  # `timeout`, and a terminal that closes, send a signal to the process and to its group: that is one request
)


class Stops:
    """What this process calls when it is asked to stop. At first a KeyboardInterrupt is raised in the main thread."""

    _act: Callable[[], None]
    _asked_at: float

    def __init__(self) -> None:
        self._begin()

    def tell(self, act: Callable[[], None]) -> None:
        """From now on, until the program ends, a request calls `act`; one that came before calls it now, so that none is lost."""
        self._act = act
        if self._asked_at > -math.inf:
            act()

    @contextmanager
    def heard(self) -> Iterator[Stops]:
        """Within it requests are heard, a program's whole life long. SIGHUP stays ignored where it is (nohup).

        In another thread than the main one nothing changes: signals are not its own.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._begin()
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = [number for number in SIGNALS if not (number == signal.SIGHUP and ignored)]
        before = {number: signal.signal(number, self._hear) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin(self) -> None:
        self._act, self._asked_at = interrupt, -math.inf

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._asked_at >= SAME_S:
            self._asked_at = now
            self._act()


def interrupt() -> None:
    """Ends at once what the main thread does."""
    raise KeyboardInterrupt


def nothing() -> None:
    """What is asked of a program that ends already."""


stops = Stops()
