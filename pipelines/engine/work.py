"""What is specific to a program, as the driver sees it: its `Work`, and the `Updates` of a program that trains something."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.tasks import Failure, Handle, Outcome
from pipelines.engine.checkpoint import Core, Found, Identity
from pipelines.engine.messages import Ask, LoopPlan, Notice, Progress, Train, Unit
from pipelines.recipe.tables import LoopTable, Pool
from pipelines.run_folder import events


@dataclass(frozen=True)
class Call:
    """A method of a pool's workers, its arguments (values or handles), and how many values it returns. shards: of a gang, by rank."""

    method: Callable[..., Any]
    args: tuple = ()
    returns: int = 1
    shards: tuple[tuple, ...] | None = None


class Refused(Exception):
    """What a worker returned does not count. It is tried again or, with `retry=False`, given up at once."""

    def __init__(self, failure: Failure, retry: bool = True) -> None:
        super().__init__(failure.message)
        self.failure, self.retry = failure, retry


def failure_event(ask: Ask, task: str, worker: str, failure: Failure) -> events.Failure:
    """Which task failed on which worker, and why."""
    unit = ask.unit
    return events.Failure(
        task=task,
        worker=worker,
        purpose=unit.stream,
        step=unit.step,
        group=unit.group,
        chunk=unit.chunk,
        together=[each.group for each in ask.batch],
        cause=failure.cause,
        message=failure.message,
    )


class Updates:
    """How a program trains what its gang holds, and how that is kept and restored. Here nothing is trained.

    gang: the name of the pool. loop: when checkpoints are made, which are kept, and how often a loss is borne.
    """

    gang = ""
    loop = LoopTable(steps=1)

    def begin(self) -> Core:
        """Brings gang and run folder to the beginning. Raises CallFailed."""
        return Core()

    def restore(self, found: Found, files: Handle) -> Core:
        """Brings gang and run folder to a checkpoint, of which `files` are the gang's. Raises CallFailed, and RunFailed."""
        raise NotImplementedError

    def again(self) -> None:
        """What is open is dropped and made again; all that is trained stays as it is."""

    def update(self, train: Train) -> Sequence[Call]:
        """What to call for a step, in this order."""
        raise NotImplementedError

    def updated(self, train: Train, outcomes: Sequence[Outcome], previous: str, progress: Progress) -> str:
        """The step is complete, and these are the outcomes of its calls: writes its records. Returns the digest after it."""
        raise NotImplementedError

    def forget(self, oldest: int) -> None:
        """Versions before this one are needed no more."""

    def identity(self) -> Identity:
        """What a checkpoint says of the run that it is of."""
        raise NotImplementedError

    def snapshot(self) -> Call:
        """What to call for the gang's files: returns a small record with their `seconds`, and a handle of them."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the program beside files and records, for `restore`: plain JSON."""
        raise NotImplementedError

    def best(self, steps: Collection[int]) -> int | None:
        """The best of these steps, as far as that is known."""
        return None

    def unjudged(self) -> Collection[int]:
        """Steps of which it is still to come whether they are the best."""
        return ()


class Work(Protocol):
    """One program. `elastic`: the pools that may be scaled, with their limits."""

    updates: Updates
    elastic: Mapping[str, Pool]

    def plan(self, first_version: int, store_bytes: int | None) -> LoopPlan:
        """What is to be done from this version on. store_bytes: what the cluster's object store holds, if it has one."""

    def call(self, ask: Ask) -> Call:
        """What to call for a batch of units at a pool."""

    def took(self, ask: Ask, outcome: Outcome) -> Mapping[Unit, int | Refused]:
        """A worker has returned: the bytes that the payloads of each wanted unit take, or why it does not count.

        Raises Refused if nothing of it counts.
        """

    def heed(self, notice: Notice) -> None:
        """A group is settled, quarantined or released, or a sweep is over."""

    def hold_up(self, checkpoint_overdue: bool) -> bool:
        """Whether nothing new may begin, because what lies beside the loop cannot keep up."""
        return False

    @property
    def pending(self) -> bool:
        """Whether something is under way that neither a checkpoint nor a stop may leave behind."""
        return False

    @property
    def to_come(self) -> bool:
        """Whether the run must not end yet, although the loop is done."""
        return False

    def finish(self) -> None:
        """Completes what is written beside the loop: before a checkpoint, a stop and the end."""

    def status(self, progress: Progress) -> dict[str, Any]:
        """What the run's status says of the program."""

    def busy_share(self) -> Mapping[str, float]:
        """The share of the last step's time for which each pool was busy, as far as it is known."""
        return {}
