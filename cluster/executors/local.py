"""The executor for debugging: workers are objects in this process, and `wait` runs one task, step by step.

Values travel as on Ray: pickled by value, each consumer with its own copy whose arrays are read-only. Deadlines are not
kept, a gang's ranks run one after the other (so ranks that wait for each other need Ray), nothing ever dies (a GPU that is
lost ends the run: the process cannot be replaced), and nobody commands.
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.collector import rarely_collecting
from cluster.executors.in_process import InProcess
from cluster.tasks import (
    Failure,
    Introduction,
    Outcome,
    PoolSpec,
    PoolStatus,
    Task,
    WorkerMistakeError,
    WorkerStartError,
    check_pools,
    check_size,
    gang_named,
    introduction_of,
    rank_args,
    spec_named,
)
from cluster.workers.tracebacks import gpu_is_lost, last_lines


@dataclass(frozen=True)
class _Payload:
    """A pickled value. Its arrays lie in `buffers`, which are immutable bytes: so they come out read-only, uncopied."""

    data: bytes
    buffers: tuple[bytes, ...]

    @classmethod
    def of(cls, value: Any) -> _Payload:
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        return cls(data, tuple(bytes(buffer.raw()) for buffer in buffers))

    def load(self) -> Any:
        return pickle.loads(self.data, buffers=self.buffers)


class LocalExecutor(InProcess):
    """Executor (see cluster/tasks.py) in one process and one thread."""

    def __init__(self, specs: Sequence[PoolSpec]) -> None:
        self._specs = check_pools(specs)
        self._workers: dict[str, list[tuple[str, Any]]] = {name: [] for name in self._specs}
        self._wanted = {spec.name: spec.size for spec in specs}
        self._num_started = dict.fromkeys(self._specs, 0)
        self._restarts = dict.fromkeys(self._specs, 0)
        self._tasks: deque[Task] = deque()
        self._introductions: list[Introduction] = []

    def start(self) -> None:
        for name, spec in self._specs.items():
            self._fill(name)
            if spec.gang:
                self._join(name)

    def free(self, pool: str) -> int:
        waiting = sum(task.pool == pool for task in self._tasks)
        if self._specs[pool].gang:
            return int(not waiting)
        return max(0, len(self._workers[pool]) - waiting)

    def submit(self, task: Task) -> None:
        if spec_named(task.pool, self._specs).gang:
            rank_args(task, len(self._workers[task.pool]))
        self._tasks.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        return [self._run(self._tasks.popleft())] if self._tasks else []

    def fetch(self, handle: _Payload) -> Any:
        return handle.load()

    def put(self, value: Any) -> _Payload:
        return _Payload.of(value)

    def resize(self, pool: str, size: int) -> None:
        check_size(spec_named(pool, self._specs), size)
        self._wanted[pool] = size
        del self._workers[pool][size:]
        self._fill(pool)

    def restart(self, pool: str) -> None:
        gang_named(pool, self._specs)
        self._workers[pool].clear()
        self._num_started[pool] = 0
        self._restarts[pool] += 1
        self._fill(pool)
        self._join(pool)

    def introductions(self) -> list[Introduction]:
        said, self._introductions = self._introductions, []
        return said

    def status(self) -> dict[str, PoolStatus]:
        waiting = Counter(task.pool for task in self._tasks)
        return {
            name: PoolStatus(self._wanted[name], len(workers), 0, self._restarts[name], waiting[name])
            for name, workers in self._workers.items()
        }

    def close(self) -> None:
        self._tasks.clear()
        for workers in self._workers.values():
            workers.clear()

    def _fill(self, pool: str) -> None:
        """Make the workers that are missing."""
        workers, spec = self._workers[pool], self._specs[pool]
        while len(workers) < self._wanted[pool]:
            name = f"{pool}-{self._num_started[pool]}"
            self._num_started[pool] += 1
            kwargs = _Payload.of(dict(spec.kwargs)).load()
            if spec.gang:
                kwargs |= {"rank": len(workers), "ranks": spec.size}
            try:
                with rarely_collecting():
                    worker = spec.actor(**kwargs)
            except spec.mistakes as error:
                raise WorkerMistakeError(str(error)) from error
            except Exception as error:
                raise WorkerStartError(f"worker {name} could not start:\n{last_lines(error)}") from error
            workers.append((name, worker))
            self._introductions.append(Introduction(pool, name, introduction_of(worker)))

    def _join(self, gang: str) -> None:
        ranks = [rank for _, rank in self._workers[gang]]
        try:
            address = ranks[0].address()
            for rank in ranks:
                rank.join(address)
        except self._specs[gang].mistakes as error:
            raise WorkerMistakeError(str(error)) from error
        except Exception as error:
            raise WorkerStartError(f"the gang {gang} could not join:\n{last_lines(error)}") from error

    def _run(self, task: Task) -> Outcome:
        began = time.monotonic()
        workers = self._workers[task.pool]
        if self._specs[task.pool].gang:
            calls = list(zip(workers, rank_args(task, len(workers)), strict=True))
        else:
            workers.sort(key=lambda worker: worker[0] in task.avoid)  # stable: those to be avoided come last
            calls = [(workers[0], task.args)]
            workers.append(workers.pop(0))  # in turn, as idle workers of a pool are
        (name, _), _ = calls[0]
        try:
            results = [_call(actor, task, args) for (_, actor), args in calls]
        except Exception:
            text = traceback.format_exc()
            if gpu_is_lost(text):
                raise WorkerStartError(
                    f"{name} lost its GPU, and with it this process: go on with --resume\n{text}"
                ) from None
            failure = Failure("raised", text)
            return Outcome(task.key, name, time.monotonic() - began, failure=failure)
        value, *payloads = results[0]
        return Outcome(task.key, name, time.monotonic() - began, value.load(), tuple(payloads))


def _call(actor: Any, task: Task, args: tuple) -> list[_Payload]:
    given = [(arg if isinstance(arg, _Payload) else _Payload.of(arg)).load() for arg in args]
    result = getattr(actor, task.method)(*given)
    if task.returns == 1:
        return [_Payload.of(result)]
    if len(result) != task.returns:
        raise ValueError(f"{task.method} returned {len(result)} values, the task expects {task.returns}")
    return [_Payload.of(value) for value in result]
