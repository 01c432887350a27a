"""What the loop is told and what it says: plan, events and decisions, as plain dataclasses of numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The images of one prompt in one step; for `heldout`, `step` is the policy version that is evaluated."""

    purpose: Purpose
    step: int
    group: int


@dataclass(frozen=True, slots=True)
class Unit:
    """A chunk of a group."""

    purpose: Purpose
    step: int
    group: int
    chunk: int

    @property
    def key(self) -> GroupKey:
        return GroupKey(self.purpose, self.step, self.group)


@dataclass(frozen=True)
class LoopPlan:
    """Everything that the loop is told. `evaluations`: policy version -> how many held-out groups each draw task has, in order.

    `groups_per_task` training groups of a step that follow each other are drawn together; where it is above 1, a group is one chunk.

    `first_version` is 0, or the version of the checkpoint that a run is resumed from; evaluations of it and of older
    versions are those that are still to be done.

    `retries` is how often a chunk that raised is tried again, `lost_retries` one that lost its worker or payload.
    More than `max_failures_in_row` quarantined training groups without a good one between them end the run.
    """

    steps: int
    groups_per_step: int
    chunks_per_group: int = 1
    groups_per_task: int = 1
    staleness: int = 0
    order: Literal["strict", "ready"] = "strict"
    retries: int = 2
    lost_retries: int = 10
    max_failures_in_row: int = 8
    max_groups_in_flight: int | None = None
    max_bytes_in_flight: int | None = None
    first_version: int = 0
    evaluations: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    heldout_chunks_per_group: int = 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """The chunk's images exist, and its payloads take `num_bytes`."""

    unit: Unit
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Scored:
    """The chunk has its rewards."""

    unit: Unit


@dataclass(frozen=True, slots=True)
class Failed:
    """The unit's draw or score failed. `retry=False`: its own input is at fault for good (a NaN reward)."""

    unit: Unit
    worker: str
    cause: str
    message: str
    retry: bool = True


@dataclass(frozen=True, slots=True)
class Trained:
    """The update of `step` is done and version `step` can be drawn with."""

    step: int


Event = Drawn | Scored | Failed | Trained


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw the batch by this policy version, on none of the workers in `avoid` if there is another; take `wanted` of it.

    A chunk is always drawn in the same batch, whatever became of the others, so that its bits are the same.
    """

    batch: tuple[Unit, ...]
    wanted: tuple[Unit, ...]
    version: int
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Score:
    """Score the drawn chunk."""

    unit: Unit
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Train:
    """Update on these groups, in stream order; `versions` names the version that drew each."""

    step: int
    groups: tuple[GroupKey, ...]
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """All held-out groups of this version are scored or quarantined."""

    version: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A group is given up: it is neither trained on nor scored. `tries`: of the chunk that failed last."""

    purpose: Purpose
    step: int
    group: int
    cause: str
    message: str
    tries: int


@dataclass(frozen=True, slots=True)
class Released:
    """Nothing needs this group's payloads any more. Given exactly once for each group that was drawn."""

    purpose: Purpose
    step: int
    group: int


@dataclass(frozen=True, slots=True)
class Abort:
    """The run cannot go on."""

    reason: str


Decision = Draw | Score | Train | Evaluated | Quarantined | Released | Abort


@dataclass(frozen=True)
class Progress:
    """A snapshot for display and scaling: chunks per stage, what is held, and whether admission holds draws back."""

    version: int
    waiting_to_draw: int
    drawing: int
    waiting_to_score: int
    scoring: int
    training: bool
    groups_in_flight: int
    bytes_in_flight: int
    admission_paused: bool
    quarantined: int
    evaluating: tuple[int, int, int] | None = (
        None  # the oldest evaluation under way: its version, groups settled, groups
    )
