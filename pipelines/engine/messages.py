"""The loop's input and output: plan, events and decisions, as plain dataclasses of numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.recipe.defaults import LOST_RETRIES, MAX_FAILURES_IN_ROW, RETRIES


@dataclass(frozen=True, slots=True)
class GroupKey:
    """Units of a stream that belong together in one step; in a sweep, `step` is the policy version that it is for."""

    stream: str
    step: int
    group: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A chunk of a group: what one task at a stage is about."""

    stream: str
    step: int
    group: int
    chunk: int

    @property
    def key(self) -> GroupKey:
        return GroupKey(self.stream, self.step, self.group)


Stages = tuple[tuple[str, ...], ...]
"""What a unit passes, one after the other: each a pool, or several side by side, of which all must have returned."""


@dataclass(frozen=True)
class Steps:
    """The stream that feeds updates: `groups_per_step` groups for each of so many steps.

    `groups_per_task` groups of a step that follow each other are one batch at the first stage; where it is above 1, a group is one
    chunk. Without stages there are no groups, and every step is due at once.
    """

    stages: Stages
    steps: int
    groups_per_step: int
    chunks_per_group: int = 1
    groups_per_task: int = 1
    batched: ClassVar[int] = 1
    spared: ClassVar[frozenset[str]] = frozenset()
    staleness: int = 0
    order: Literal["strict", "ready"] = "strict"


@dataclass(frozen=True)
class Sweeps:
    """A stream without updates: groups that are begun as soon as a policy version exists. What trains nothing has version 0 alone.

    tasks: by policy version, how many groups each batch has, in order. batched: so many stages work on batches, the others on
    one unit at a time. Where a batch has several groups, a group is one chunk. spared: the pools that a unit goes on without,
    if they fail it too often.
    """

    stages: Stages
    tasks: Mapping[int, Sequence[int]]
    chunks_per_group: int = 1
    batched: int = 1
    spared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoopPlan:
    """All settings of the loop. At most one of the `streams` feeds updates.

    `first_version` is 0, or the version of the checkpoint that a run is resumed from; sweeps of it and of older versions are
    those that are still to be done.

    `retries` is how often a unit that raised is tried again, `lost_retries` one that lost its worker or payload.
    More than `max_failures_in_row` quarantined groups for updates without a good one between them end the run.
    """

    streams: Mapping[str, Steps | Sweeps]
    retries: int = RETRIES
    lost_retries: int = LOST_RETRIES
    max_failures_in_row: int = MAX_FAILURES_IN_ROW
    max_groups_in_flight: int | None = None
    max_bytes_in_flight: int | None = None
    first_version: int = 0

    def pools(self) -> tuple[str, ...]:
        """All that units pass, those of the last stages first: what is begun is finished before more is begun."""
        last: dict[str, int] = {}
        for stream in self.streams.values():
            for number, stage in enumerate(stream.stages):
                last |= {pool: max(number, last.get(pool, 0)) for pool in stage}
        return tuple(sorted(last, key=lambda pool: -last[pool]))


@dataclass(frozen=True, slots=True)
class Done:
    """A worker of the pool has done its part for the unit, and what it made takes `num_bytes`."""

    unit: Unit
    pool: str
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The unit failed at the pool. `retry=False`: its own input is at fault for good (a figure that is not finite)."""

    unit: Unit
    pool: str
    worker: str
    cause: str
    message: str
    retry: bool = True


@dataclass(frozen=True, slots=True)
class Trained:
    """The update of `step` is done and version `step` can be drawn with."""

    step: int


Event = Done | Failed | Trained


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the pool to work on the batch for this policy version, on none of the workers in `avoid` if there is another.

    Take `wanted` of what it makes: a unit is always made in the same batch, whatever became of the others, so that its bits are the same.
    """

    pool: str
    batch: tuple[Unit, ...]
    wanted: tuple[Unit, ...]
    version: int
    avoid: frozenset[str] = frozenset()

    @property
    def unit(self) -> Unit:
        """The first of the batch; the only one, but where groups are made together."""
        return self.batch[0]


@dataclass(frozen=True, slots=True)
class Train:
    """Update on these groups, in stream order; `versions` names the version that drew each."""

    step: int
    groups: tuple[GroupKey, ...]
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A group has passed all stages of its stream."""

    key: GroupKey


@dataclass(frozen=True, slots=True)
class Swept:
    """All groups of a sweep, those of a stream that are due at this policy version, are settled or quarantined."""

    stream: str
    version: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A group is given up, and left out of what follows. `tries`: of the chunk that failed last."""

    key: GroupKey
    cause: str
    message: str
    tries: int


@dataclass(frozen=True, slots=True)
class Spared:
    """A unit continues without the result of this pool."""

    unit: Unit
    pool: str
    message: str


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing needs this group's payloads any more. Given exactly once for each group that was begun."""

    key: GroupKey


@dataclass(frozen=True, slots=True)
class Abort:
    """The run cannot go on."""

    reason: str


Notice = Settled | Swept | Quarantined | Spared | Released
Decision = Ask | Train | Abort | Notice


@dataclass(frozen=True)
class Progress:
    """A snapshot for display and scaling: units per pool, what is held, and whether admission holds new groups back.

    waiting, busy: units by pool. sweep: the oldest one under way: its version, groups settled, groups.
    """

    version: int
    waiting: Mapping[str, int]
    busy: Mapping[str, int]
    training: bool
    groups_in_flight: int
    bytes_in_flight: int
    admission_paused: bool
    quarantined: int
    sweep: tuple[int, int, int] | None = None
