"""The one wait of a driver: every reference it waits on lies in one set, with a callback and a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import ray


@dataclass(slots=True)
class _Wait:
    on_ready: Callable[[], None]
    on_late: Callable[[], None]
    deadline: float
    background: bool


class WaitSet:
    """References under way. Time is `time.monotonic()`, in seconds.

    Background ones, such as heartbeats, are waited for beside the others but are no reason to wait: the length of the
    set is the number of the others.
    """

    def __init__(self) -> None:
        self._waits: dict[ray.ObjectRef, _Wait] = {}
        self._num_background = 0

    def __len__(self) -> int:
        return len(self._waits) - self._num_background

    def add(
        self,
        ref: ray.ObjectRef,
        on_ready: Callable[[], None],
        on_late: Callable[[], None],
        deadline_s: float | None,
        background: bool = False,
    ) -> None:
        """Call `on_ready` once the object exists anywhere or has failed; `on_late` if not within `deadline_s`."""
        self.discard(ref)
        deadline = time.monotonic() + deadline_s if deadline_s else float("inf")
        self._waits[ref] = _Wait(on_ready, on_late, deadline, background)
        self._num_background += background

    def discard(self, ref: ray.ObjectRef) -> None:
        self._take(ref)

    def poll(self, timeout_s: float) -> None:
        """Wait until something is ready or late, at most `timeout_s`, and call back for all that is.

        A callback that raises leaves the others for the next call.
        """
        if not self._waits:
            time.sleep(timeout_s)
            return
        refs = list(self._waits)
        first_deadline = min(wait.deadline for wait in self._waits.values())
        patience_s = max(0.0, min(timeout_s, first_deadline - time.monotonic()))
        ready, others = ray.wait(refs, num_returns=1, timeout=patience_s, fetch_local=False)
        if ready and others:
            more, _ = ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)
            ready += more
        # What a worker has finished counts before the news that it died.
        ready.sort(key=lambda ref: self._waits[ref].background)
        for ref in ready:
            # a callback may have discarded others, such as the ranks of a gang that ended
            if wait := self._take(ref):
                wait.on_ready()
        if time.monotonic() >= first_deadline:
            self._call_late()

    def _call_late(self) -> None:
        now = time.monotonic()
        for ref in [ref for ref, wait in self._waits.items() if now >= wait.deadline]:
            if wait := self._take(ref):
                wait.on_late()

    def _take(self, ref: ray.ObjectRef) -> _Wait | None:
        wait = self._waits.pop(ref, None)
        self._num_background -= wait is not None and wait.background
        return wait
