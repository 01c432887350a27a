"""One call of every rank of a gang: waited for as one, and explained as one when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray

from cluster.tasks import Failure
from cluster.workers.ray_errors import result_of
from cluster.workers.wait_set import WaitSet

GRACE_S = 5.0
BLAMED_FIRST = {"worker_lost": 0, "mistake": 1}


class Round:
    """Calls `done(values, None)` when all ranks have returned, or `done([], failure)` when one has not. Once.

    When a rank dies, the others often fail first, with an error about a lost connection. So after an error the round gives
    the others GRACE_S to say more (those that wait for the failed one never would), and blames a dead rank, then a mistake, before
    one that raised.
    """

    def __init__(
        self,
        waits: WaitSet,
        what: str,
        refs: Sequence[ray.ObjectRef],
        deadline_s: float | None,
        done: Callable[[list[Any], Failure | None], None],
        mistakes: tuple[type[Exception], ...] = (),
    ) -> None:
        self._waits = waits
        self._what = what
        self._refs = refs
        self._deadline_s = deadline_s
        self._done = done
        self._mistakes = mistakes  # see `result_of`
        self._values: dict[int, Any] = {}
        self._failures: list[Failure] = []
        self._left = dict(enumerate(refs))
        self._wait(deadline_s)

    def cancel(self) -> None:
        """Wait no longer; `done` is not called."""
        for ref in self._left.values():
            self._waits.discard(ref)
        self._left.clear()

    def _wait(self, deadline_s: float | None) -> None:
        for rank, ref in self._left.items():
            self._waits.add(ref, partial(self._returned, rank, ref), self._late, deadline_s)

    def _returned(self, rank: int, ref: ray.ObjectRef) -> None:
        del self._left[rank]
        self._values[rank], failure = result_of(ref, self._mistakes)
        if failure:
            prefix = "" if failure.cause == "mistake" else f"rank {rank}: "
            self._failures.append(Failure(failure.cause, prefix + failure.message))
        if not self._left or (failure and failure.cause == "worker_lost"):
            self._finish()
        elif failure and len(self._failures) == 1:
            self._wait(GRACE_S)

    def _late(self) -> None:
        if not self._failures:
            ranks = ", ".join(map(str, self._left))
            message = (
                f"{self._what} took longer than {self._deadline_s} s (not done: rank {ranks} of {len(self._refs)})"
            )
            self._failures.append(Failure("deadline", message))
        self._finish()

    def _finish(self) -> None:
        self.cancel()
        blamed = sorted(self._failures, key=lambda failure: BLAMED_FIRST.get(failure.cause, len(BLAMED_FIRST)))
        values = [] if blamed else [self._values[rank] for rank in range(len(self._refs))]
        self._done(values, blamed[0] if blamed else None)
