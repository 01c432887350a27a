"""The groups in flight as the loop sees them: which pools their units wait for, which are at work on them, and what they hold."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from pipelines.engine.messages import Failed, GroupKey, LoopPlan, Stages, Steps, Sweeps, Unit


@dataclass(slots=True)
class Failures:
    """How a unit failed so far: on its own input, through the loss of a worker or payload, and on which workers."""

    own: int = 0
    lost: int = 0
    workers: frozenset[str] = frozenset()

    def add(self, event: Failed) -> None:
        """Once more. A worker is not to blame for a payload that is lost."""
        if event.cause == "raised":
            self.own += 1
        else:
            self.lost += 1
        if event.cause != "object_lost":
            self.workers |= {event.worker}

    def forget(self) -> None:
        """Nothing is held against it any more."""
        self.own, self.lost, self.workers = 0, 0, frozenset()

    @property
    def tries(self) -> int:
        """How many of its tries failed."""
        return self.own + self.lost

    def too_many(self, plan: LoopPlan) -> bool:
        """Whether it is not to be tried again."""
        return self.own > plan.retries or self.lost > plan.lost_retries


@dataclass(slots=True)
class Chunk:
    """How far a unit is. waits, busy: the pools of its stage that it waits for, and those that are at work on it.

    held: bytes by the pool that made them; counted: in all, as large as the `guess` until the first stage is passed.
    lost: a payload is gone, so that it is to begin again. failures: see `OpenGroup.failures`.
    """

    stage: int
    waits: set[str]
    busy: set[str]
    guess: int
    counted: int
    held: dict[str, int] = field(default_factory=dict)
    lost: bool = False
    failures: defaultdict[str, Failures] = field(default_factory=lambda: defaultdict(Failures))


@dataclass(slots=True)
class OpenGroup:
    """A group that was begun and is not released.

    together: those of its batch, itself among them, in order; they are a batch at the first `batched` stages.
    alone: the pools where it is a batch of its own all the same. spared: those that it goes on without if they fail too often.
    complete: all its chunks have passed all stages.
    """

    key: GroupKey
    together: tuple[GroupKey, ...]
    batched: int
    version: int
    stages: Stages
    spared: frozenset[str]
    chunks: list[Chunk]
    alone: set[str] = field(default_factory=set)
    complete: bool = False
    quarantined: bool = False

    @property
    def busy(self) -> bool:
        """Whether a worker has one of its chunks."""
        return any(chunk.busy for chunk in self.chunks)

    def failures(self, chunk: Chunk, pool: str) -> Failures:
        """What is held against a chunk at a pool: of one that is spared its own failures, else those at all the others together."""
        return chunk.failures[pool if pool in self.spared else ""]

    def in_batch(self, chunk: Chunk, pool: str) -> bool:
        """Whether a pool works on this chunk of it together with others."""
        return chunk.stage < self.batched and len(self.together) > 1 and pool not in self.alone


class InFlight:
    """All open groups, with a queue for each pool: the oldest step first, so that what is tried again does not wait behind newer work."""

    def __init__(self) -> None:
        self.groups: dict[GroupKey, OpenGroup] = {}
        self.waiting: Counter[str] = Counter()  # units by pool
        self.busy: Counter[str] = Counter()
        self.bytes = 0
        self.largest = 0  # bytes of a chunk, of all that were seen
        self._queues: dict[str, list[tuple[tuple, Unit]]] = {}

    def open(self, keys: tuple[GroupKey, ...], version: int, stream: Steps | Sweeps) -> None:
        """Groups of a stream begin, as one batch. A chunk that was not made yet counts as large as the largest one."""
        chunks = stream.chunks_per_group
        for key in keys:
            new = [Chunk(0, set(), set(), self.largest, self.largest) for _ in range(chunks)]
            made = OpenGroup(key, keys, stream.batched, version, stream.stages, stream.spared, new)
            group = self.groups[key] = made
            self.bytes += chunks * self.largest
            for number in range(chunks):
                self.arrive(group, Unit(key.stream, key.step, key.group, number), 0)

    def release(self, group: OpenGroup) -> None:
        """Nothing holds a group any more."""
        del self.groups[group.key]
        self.bytes -= sum(chunk.counted for chunk in group.chunks)

    def arrive(self, group: OpenGroup, unit: Unit, stage: int) -> None:
        """A unit of a group is at this stage: it waits for its pools."""
        chunk = group.chunks[unit.chunk]
        chunk.stage = stage
        for pool in group.stages[stage]:
            self.wait(chunk, unit, pool)

    def wait(self, chunk: Chunk, unit: Unit, pool: str) -> None:
        """A unit, which is this chunk, waits for a pool, for the first time or once more."""
        chunk.waits.add(pool)
        self.waiting[pool] += 1
        order = (unit.step, unit.group, unit.chunk, unit.stream)
        heapq.heappush(self._queues.setdefault(pool, []), (order, unit))

    def next(self, pool: str) -> Unit | None:
        """The first unit that waits for a pool, taken from its queue; those that no longer wait are passed over."""
        queue = self._queues.get(pool)
        while queue:
            unit = heapq.heappop(queue)[1]
            group = self.groups.get(unit.key)
            if group is not None and pool in group.chunks[unit.chunk].waits:
                return unit
        return None

    def begin(self, chunk: Chunk, pool: str) -> None:
        """A worker of the pool gets a chunk."""
        chunk.waits.remove(pool)
        chunk.busy.add(pool)
        self.waiting[pool] -= 1
        self.busy[pool] += 1

    def back(self, unit: Unit, pool: str) -> OpenGroup:
        """The worker has returned the unit, whatever came of it; its group."""
        group = self.groups[unit.key]
        chunk = group.chunks[unit.chunk]
        assert pool in chunk.busy, f"{unit} is not with {pool}: nothing was asked of it"
        chunk.busy.remove(pool)
        self.busy[pool] -= 1
        return group

    def hold(self, chunk: Chunk, pool: str, num_bytes: int) -> None:
        """What a pool made of a chunk takes so many bytes."""
        chunk.held[pool] = num_bytes
        if not chunk.waits and not chunk.busy:
            chunk.guess = 0
        held = sum(chunk.held.values())
        self.bytes += max(held, chunk.guess) - chunk.counted
        chunk.counted = max(held, chunk.guess)
        self.largest = max(self.largest, held)

    def give_up_waiting(self, chunk: Chunk) -> None:
        """A chunk waits for nothing any more."""
        for pool in chunk.waits:
            self.waiting[pool] -= 1
        chunk.waits.clear()
