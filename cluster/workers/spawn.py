"""Where workers live: how one becomes a process, how it is called, and what every pool of an executor shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.collector import rarely_collecting
from cluster.tasks import (
    Introduction,
    Outcome,
    PoolSpec,
    Task,
    WorkerMistakeError,
    WorkerStartError,
    introduction_of,
)
from cluster.workers.heartbeat import HEALTH, Heartbeats
from cluster.workers.tracebacks import last_lines
from cluster.workers.wait_set import WaitSet

MAX_BACKOFF_S = 30.0


@dataclass(frozen=True)
class Site:
    """What every pool of an executor shares. `report` takes outcomes as they arise, `introduce` what new workers report."""

    run: str
    waits: WaitSet
    heartbeats: Heartbeats
    report: Callable[[Outcome], None]
    introduce: Callable[[Introduction], None]
    env_vars: dict[str, str]
    start_timeout_s: float
    max_start_failures: int

    def start_actor(
        self, spec: PoolSpec, name: str, placement: Any = None, **more_kwargs: Any
    ) -> ray.actor.ActorHandle:
        """A new actor process; it is not ready yet. Ray never restarts it: the state would be lost silently.

        The concurrency group for heartbeats changes where Ray runs the other calls: the constructor in the main thread, as
        ever, but all methods in one other thread. They still run one at a time and in the order of submission, also when the
        arguments of an earlier one come late. torch has the number of threads that the constructor set, or OMP_NUM_THREADS;
        but what torch keeps per thread (grad mode, default device, the current CUDA device) starts anew in that thread: an
        actor that sets it does so in a method.
        """
        if spec.beside_driver:
            placement = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = _remote(spec.actor, spec.mistakes).options(
            name=f"echoray-{self.run}-{name}",
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus,
            resources=dict(spec.resources),
            label_selector=dict(spec.labels),
            max_restarts=0,
            runtime_env={"env_vars": self.env_vars},
            scheduling_strategy=placement,
        )
        return actor.remote(name, **spec.kwargs, **more_kwargs)


def call(actor: ray.actor.ActorHandle, task: Task, args: tuple) -> list[ray.ObjectRef]:
    """Call the task's method; one reference for each of its return values."""
    method = getattr(actor, task.method)
    return [method.remote(*args)] if task.returns == 1 else method.options(num_returns=task.returns).remote(*args)


def backoff_s(failures: int) -> float:
    """How long to wait before the next start, after so many in a row that failed."""
    return min(MAX_BACKOFF_S, 2.0**failures)


@cache
def _remote(actor: type, mistakes: tuple[type[Exception], ...]) -> Any:
    """The class as Ray knows it: made once, since Ray sends each one that is made to the cluster.

    Its first argument is the worker's name, which Ray puts before the lines of its log, and into its errors and its tasks.
    What its constructor raises is kept for `started()`: else Ray aborts the process, and prints its stack as well.
    """

    class Worker(actor):
        def __init__(self, worker_name: str, **kwargs: Any) -> None:
            self._worker_name = worker_name
            self._problem: WorkerStartError | None = None
            try:
                with rarely_collecting():
                    super().__init__(**kwargs)
            except mistakes as error:
                self._problem = WorkerMistakeError(str(error))
            except Exception as error:
                self._problem = WorkerStartError(last_lines(error))

        def started(self) -> dict[str, Any]:
            if self._problem is not None:
                raise self._problem
            return introduction_of(self)

        def __repr__(self) -> str:
            return self._worker_name

    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Worker, attribute, getattr(actor, attribute))
    return ray.remote(concurrency_groups={HEALTH: 1})(Worker)
