"""An executor in virtual time: workers are objects that say how long they sleep, and nothing ever waits.

With it the real loop and driver run a cluster of thousands of workers on one core: to plan a split of the GPUs before there
are any, and to measure what the driver itself costs.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

from cluster.executors.in_process import InProcess
from cluster.tasks import Outcome, PoolSpec, PoolStatus, Task, check_pools


class VirtualExecutor(InProcess):
    """Executor (see cluster/tasks.py) for actors that take `sleep` and call it instead of sleeping.

    now: the virtual time in seconds. driver_s: what the driver takes for each outcome, during which nothing is handed out. A gang
    is one actor, which works on the largest shard: the others would wait for it.
    """

    def __init__(self, specs: Sequence[PoolSpec], driver_s: float = 0.0) -> None:
        self._specs = check_pools(specs)
        self.now = 0.0
        self._driver_s = driver_s
        self._slept = 0.0
        self._actors = {spec.name: spec.actor(**spec.kwargs, sleep=self._sleep) for spec in specs}
        self._idle = {spec.name: 1 if spec.gang else spec.size for spec in specs}
        self._backlog: dict[str, deque[Task]] = {spec.name: deque() for spec in specs}
        self._under_way: list[tuple[float, int, str, Outcome]] = []
        self._num_calls = 0

    def start(self) -> None:
        pass

    def free(self, pool: str) -> int:
        return self._idle[pool]

    def submit(self, task: Task) -> None:
        self._backlog[task.pool].append(task)
        self._dispatch(task.pool)

    def wait(self, timeout_s: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while self._under_way and (not outcomes or self._under_way[0][0] <= self.now):
            end, _, pool, outcome = heapq.heappop(self._under_way)
            self.now = max(self.now, end)
            outcomes.append(outcome)
            self._idle[pool] += 1
            self._dispatch(pool)
        self.now += self._driver_s * len(outcomes)
        return outcomes

    def fetch(self, handle: Any) -> Any:
        return handle

    def put(self, value: Any) -> Any:
        return value

    def resize(self, pool: str, size: int) -> None:
        raise NotImplementedError("in virtual time pools keep their size")

    def restart(self, pool: str) -> None:
        raise NotImplementedError("in virtual time nothing is ever lost")

    def status(self) -> dict[str, PoolStatus]:
        return {
            name: PoolStatus(wanted=spec.size, ready=spec.size, busy=spec.size - self._idle[name], restarts=0)
            for name, spec in self._specs.items()
        }

    def close(self) -> None:
        self._under_way.clear()

    def _dispatch(self, pool: str) -> None:
        while self._idle[pool] and self._backlog[pool]:
            task = self._backlog[pool].popleft()
            self._idle[pool] -= 1
            self._slept = 0.0
            args = task.args + (max(task.shards, key=len) if task.shards else ())
            result = getattr(self._actors[pool], task.method)(*args)
            value, *payloads = result if task.returns > 1 else (result,)
            outcome = Outcome(task.key, f"{pool}-0", self._slept, value, tuple(payloads))
            self._num_calls += 1
            heapq.heappush(self._under_way, (self.now + self._slept, self._num_calls, pool, outcome))

    def _sleep(self, seconds: float) -> None:
        self._slept += seconds
