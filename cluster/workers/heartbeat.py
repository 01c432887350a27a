"""Signs of life: every worker is asked for one now and then, so that one that hangs or died while idle is noticed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import ray

from cluster.workers.ray_errors import result_of
from cluster.workers.wait_set import WaitSet

HEALTH = "health"  # the concurrency group in which a worker answers


@dataclass(slots=True, eq=False)
class Pulse:
    """One worker that is watched."""

    actor: ray.actor.ActorHandle
    on_lost: Callable[[str], None]
    due: float
    ref: ray.ObjectRef | None = None
    stopped: bool = False


class Heartbeats:
    """Asks each watched worker `every_s` after its last answer; one that does not answer within `timeout_s` is lost.

    The question is a method that Ray gives every actor, in a thread of its own: a worker in the middle of a long call
    answers, unless the call holds Python's lock for all of `timeout_s`.
    """

    def __init__(self, waits: WaitSet, every_s: float, timeout_s: float) -> None:
        self._waits = waits
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._resting: deque[Pulse] = deque()  # in the order in which they are due

    def watch(self, actor: ray.actor.ActorHandle, on_lost: Callable[[str], None]) -> Pulse:
        """Call `on_lost`, once, with the reason when the worker has died or hangs."""
        pulse = Pulse(actor, on_lost, time.monotonic() + self._every_s)
        self._resting.append(pulse)
        return pulse

    def stop(self, pulse: Pulse) -> None:
        """Watch it no longer."""
        pulse.stopped = True
        if pulse.ref is not None:
            self._waits.discard(pulse.ref)

    def beat(self) -> float:
        """Ask those whose turn it is; seconds until it should be called again."""
        now = time.monotonic()
        while self._resting and (self._resting[0].due <= now or self._resting[0].stopped):
            pulse = self._resting.popleft()
            if not pulse.stopped:
                self._ask(pulse)
        return self._resting[0].due - now if self._resting else float("inf")

    def _ask(self, pulse: Pulse) -> None:
        ref = pulse.actor.__ray_ready__.options(concurrency_group=HEALTH).remote()
        pulse.ref = ref

        def on_ready() -> None:
            _, failure = result_of(ref)
            if failure:
                return self._lost(pulse, failure.message)
            pulse.ref = None
            pulse.due = time.monotonic() + self._every_s
            self._resting.append(pulse)

        def on_late() -> None:
            self._lost(pulse, f"no heartbeat for {self._timeout_s:g} s")

        self._waits.add(ref, on_ready, on_late, self._timeout_s, background=True)

    def _lost(self, pulse: Pulse, reason: str) -> None:
        pulse.stopped = True
        pulse.on_lost(reason)
