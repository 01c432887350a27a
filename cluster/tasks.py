"""What is asked of workers and what comes back: the contract between a driver and any executor. Imports nothing of Ray.

An executor holds named pools of workers. Each worker is an instance of a plain class in a process of its own (or, for
debugging, in the driver's). A task is one method call. Its first return value is small and comes back with the outcome;
its other return values stay where they were made, named by opaque handles that later tasks can take as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cluster.errors import ClusterError, UserError

Handle = Any  # an opaque name of a payload; what it is depends on the executor
Cause = Literal["worker_lost", "deadline", "raised", "object_lost", "mistake"]
START_TIMEOUT_S = 600.0  # of a worker, weights and all
HEARTBEAT_S, HEARTBEAT_TIMEOUT_S = 10.0, 60.0
STARTING = "starting"  # the state in the status of a run that has no workers yet, only words for what it waits for


class WorkerStartError(ClusterError):
    """Workers of a pool do not start. The message holds the worker's own error."""


class WorkerMistakeError(WorkerStartError):
    """A worker says that what it was given cannot be used (`PoolSpec.mistakes`). The message is its own sentence, and nothing else."""

    exit_code = UserError.exit_code


class PayloadLostError(RuntimeError):
    """A payload that was fetched is gone, or did not arrive in time."""


@dataclass(frozen=True)
class PoolSpec:
    """A pool of `size` workers `actor(**kwargs)`, each holding these resources, on nodes with these labels.

    gang: all are called together. Each is also constructed with `rank` and `ranks`; then rank 0 is asked for `address()`, where
    they can meet, and all are called with `join(address)`; when all have returned, the gang is ready.
    min_size, max_size: how far the size may change (None: not below `size`; no upper limit). A gang's never does.
    beside_driver: the workers run on the driver's node.
    An actor with a method `info()` says by it what it is and where it runs, once it is constructed.
    mistakes: the exceptions by which a constructor, or a gang's meeting, says that what was given cannot be used, so that no other
    worker could use it either.
    """

    name: str
    actor: type
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    size: int = 1
    gang: bool = False
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    min_size: int | None = None
    max_size: int | None = None
    beside_driver: bool = False
    mistakes: tuple[type[Exception], ...] = ()

    @property
    def smallest(self) -> int:
        """The size that the pool may shrink to."""
        return self.size if self.min_size is None else self.min_size


@dataclass(frozen=True)
class Task:
    """One call of `method` on a worker of `pool`. `key` is the caller's name for it and comes back with the outcome.

    args: values or handles; handles only at the top level. shards (gangs only): rank i is called with args + shards[i].
    returns: the number of return values. avoid: names of workers that get the task only if there is no other.
    deadline_s: seconds from the start of the call; a worker that takes longer is ended.
    """

    pool: str
    method: str
    key: Any  # hashable
    args: tuple = ()
    shards: tuple[tuple, ...] | None = None
    returns: int = 1
    avoid: frozenset[str] = frozenset()
    deadline_s: float | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no value: the worker died or hung, the call raised (message: its traceback), an argument is lost.

    A worker that was given what it cannot use fails its start by a mistake (message: its sentence).
    """

    cause: Cause
    message: str

    @property
    def lost(self) -> bool:
        """Whether the worker died or hung, so that the call may do well on another."""
        return self.cause in ("worker_lost", "deadline")


@dataclass(frozen=True)
class Outcome:
    """What became of a task. `seconds`: from the call to its return as seen here. `value` is None on failure."""

    key: Any  # hashable
    worker: str
    seconds: float
    value: Any = None
    payloads: tuple[Handle, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True)
class Introduction:
    """What a worker said about itself by its `info()` when it was ready; nothing if it has none."""

    pool: str
    worker: str
    said: Mapping[str, Any]


@dataclass(frozen=True)
class PoolStatus:
    """Workers of a pool: wanted, ready (busy ones included), busy, and how many were replaced so far; and its tasks.

    restarts of a gang: how often all its ranks were started again. waiting: tasks that no worker was given yet; in_flight:
    tasks that were given to workers. starting_s: how long the first of those that are not ready has been starting, which
    may mean that Ray has no room for it (None: all are ready, or one is to be started again).
    """

    wanted: int
    ready: int
    busy: int
    restarts: int
    waiting: int = 0
    in_flight: int = 0
    starting_s: float | None = None


@dataclass(frozen=True)
class Command:
    """What somebody outside asks of the run: another size for a pool, or to stop. `id` is for the answer."""

    id: int
    kind: Literal["scale", "stop"]
    pool: str = ""
    size: int = 0


class Executor(Protocol):
    """Runs tasks on pools of workers. Used by one thread."""

    def start(self) -> None:
        """Return when all workers are ready. Raises PlacementError before, or WorkerStartError (WorkerMistakeError) during the start."""

    def free(self, pool: str) -> int:
        """The number of ready workers without a task."""

    def submit(self, task: Task) -> None:
        """Take a task; it waits for a worker if none is free. A gang works through its tasks in the order given."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes since the last call: at least one, unless the time ran out or nothing is under way.

        Raises WorkerStartError when a pool has lost its workers and new ones do not start.
        """

    def fetch(self, handle: Handle) -> Any:
        """The payload itself. For small things: the caller waits. Raises PayloadLostError."""

    def put(self, value: Any) -> Handle:
        """A handle to a value that many tasks take."""

    def resize(self, pool: str, size: int) -> None:
        """Grow: new workers join when they are ready. Shrink: workers finish what they do and are ended.

        Raises ValueError, with the limits, for a size outside of the pool's, and PlacementError for more than the cluster has.
        """

    def restart(self, pool: str) -> None:
        """End the ranks of a gang, alive or lost, and start them anew. Tasks submitted from now on wait until they have joined.

        Tasks under way fail (worker_lost). A gang that was lost stays so, and fails every task, until this is called.
        """

    def exchange(self, status: Mapping[str, Any]) -> list[Command]:
        """Publish the run's status, and return the commands that arrived. Never blocks; may be called at any time."""

    def answer(self, command_id: int, text: str) -> None:
        """Report the result of a command to whoever gave it. A text that begins with "refused" says that nothing did."""

    def object_store_bytes(self) -> int | None:
        """How much the object store holds before it spills to disk; None where payloads lie in no store."""

    def introductions(self) -> list[Introduction]:
        """Of the workers that became ready since the last call."""

    def status(self) -> dict[str, PoolStatus]: ...

    def close(self) -> None:
        """End every worker. Tasks under way are dropped. May be called twice."""


def check_pools(specs: Sequence[PoolSpec]) -> dict[str, PoolSpec]:
    """The specs by name. Raises ValueError for two pools of one name and for what no pool can be."""
    by_name = {spec.name: spec for spec in specs}
    if len(by_name) < len(specs):
        raise ValueError(f"two pools have the same name: {sorted(spec.name for spec in specs)}")
    for spec in specs:
        if spec.size < 1:
            raise ValueError(f"pool {spec.name}: size is {spec.size}, it must be 1 or more")
        if spec.gang and spec.beside_driver:
            raise ValueError(f"pool {spec.name}: the ranks of a gang cannot be placed beside the driver")
        if not spec.gang:
            check_size(spec, spec.size)
    return by_name


def check_size(spec: PoolSpec, size: int) -> None:
    """Raises ValueError if the pool may not have this size."""
    if spec.gang:
        raise ValueError(f"pool {spec.name} is a gang of {spec.size} ranks: its size is fixed during a run")
    if size < max(1, spec.smallest) or (spec.max_size is not None and size > spec.max_size):
        limits = f"{spec.smallest} or more" if spec.max_size is None else f"{spec.smallest} to {spec.max_size}"
        raise ValueError(f"pool {spec.name}: {size} is outside of its limits, {limits} workers")


def introduction_of(actor: Any) -> dict[str, Any]:
    """What an actor says about itself; nothing if it has no `info()`."""
    return actor.info() if hasattr(actor, "info") else {}


def spec_named(name: str, specs: Mapping[str, PoolSpec]) -> PoolSpec:
    """The spec of this name. Raises ValueError with the names that there are."""
    if name not in specs:
        raise ValueError(f"there is no pool {name}, only {', '.join(specs)}")
    return specs[name]


def gang_named(name: str, specs: Mapping[str, PoolSpec]) -> PoolSpec:
    """The spec of this gang. Raises ValueError for a pool that is none."""
    if not spec_named(name, specs).gang:
        raise ValueError(f"pool {name} heals by itself: only a gang is restarted")
    return specs[name]


def rank_args(task: Task, size: int) -> list[tuple]:
    """The arguments of each rank of a gang. Raises ValueError unless there is a shard for each rank."""
    if task.shards is None:
        return [task.args] * size
    if len(task.shards) != size:
        raise ValueError(f"task {task.method} has {len(task.shards)} shards for {size} ranks of {task.pool}")
    return [task.args + shard for shard in task.shards]
