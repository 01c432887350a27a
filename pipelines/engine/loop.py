"""The state machine of a run: which unit is worked on by which pool, for which policy version, and when to update.

Events go in (`handle`), decisions come out (`decide`). It knows no Ray, no torch, no clock and no worker beyond a name,
so that the same loop runs on a cluster, in one process, and in virtual time. Steps are counted from 1; version n is the
policy after n steps. Groups are made in chunks; a chunk is the unit that passes the stages of its stream, and is tried again.
Chunks of several groups may be one batch; which ones and at which stages, the plan alone decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.engine.admission import Admission
from pipelines.engine.groups import Chunk, InFlight, OpenGroup
from pipelines.engine.messages import (
    Abort,
    Ask,
    Decision,
    Done,
    Event,
    Failed,
    LoopPlan,
    Progress,
    Quarantined,
    Released,
    Settled,
    Spared,
    Swept,
    Train,
    Trained,
    Unit,
)


class Loop:
    """The loop of one run. The caller reports what happened, asks `decide` what to do, and does all of it."""

    def __init__(self, plan: LoopPlan) -> None:
        self.plan = plan
        self.version = plan.first_version
        self.pools = plan.pools()
        self._flight = InFlight()
        self._admission = Admission(plan, self._flight)
        self._training: Train | None = None
        self._notices: list[Decision] = []
        self._failures_in_row = 0
        self._num_quarantined = 0
        self._aborted = False
        for version in range(self.version + 1):
            self._begin_sweeps(version)

    # -- what the driver calls

    def handle(self, event: Event) -> None:
        """Take note of what happened. Events after an abort are ignored."""
        if self._aborted:
            return
        match event:
            case Done():
                self._done(event)
            case Failed():
                self._failed(event)
            case Trained(step):
                self._trained(step)

    def decide(self, free: Mapping[str, int]) -> list[Decision]:
        """What to do now with this many idle workers by pool. A decision is given once."""
        notices, self._notices = self._notices, []
        if self._aborted:
            return notices
        trains = self._decide_train()
        asks = (ask for pool in self.pools for ask in self._asks(pool, free.get(pool, 0)))
        return [*notices, *trains, *asks]

    @property
    def done(self) -> bool:
        """All steps are trained, all sweeps finished, and every notice of that was given."""
        sweeping = any(sweeps.unsettled for sweeps in self._admission.sweeps.values())
        return self.version >= self._admission.updates.steps and not sweeping and not self._notices

    def oldest_version_needed(self) -> int:
        """Older versions can be dropped. Looks at every open group: call it once a step.

        After the last group of all the next one counts as well: a run that is resumed with more steps begins with it.
        """
        sweeping = (version for sweeps in self._admission.sweeps.values() for version in sweeps.unsettled)
        open_groups = (group.version for group in self._flight.groups.values())
        return min(self.version, self._admission.next_version(self.version), *sweeping, *open_groups)

    def progress(self) -> Progress:
        flight, admission = self._flight, self._admission
        oldest = [found for sweeps in admission.sweeps.values() if (found := sweeps.oldest())]
        return Progress(
            version=self.version,
            waiting={pool: flight.waiting[pool] + admission.unopened(pool, self.version) for pool in self.pools},
            busy={pool: flight.busy[pool] for pool in self.pools},
            training=self._training is not None,
            groups_in_flight=len(flight.groups),
            bytes_in_flight=flight.bytes,
            admission_paused=bool(admission.paused),
            quarantined=self._num_quarantined,
            sweep=min(oldest, default=None),
        )

    # -- decisions

    def _decide_train(self) -> Iterator[Train]:
        step = self.version + 1
        if self._training is not None or step > self._admission.updates.steps:
            return
        keys = self._admission.order.take(step)
        if keys is not None:
            self._training = Train(step, keys, tuple(self._flight.groups[key].version for key in keys))
            yield self._training

    def _asks(self, pool: str, free: int) -> Iterator[Ask]:
        while free > 0 and (unit := self._next(pool)):
            yield self._ask(unit, pool)
            free -= 1

    def _next(self, pool: str) -> Unit | None:
        """The unit that a pool is to work on next, of a group that is open or begins now."""
        unit = self._flight.next(pool)
        if unit is None and self._admission.open_next(pool, self.version):
            unit = self._flight.next(pool)
        return unit

    def _ask(self, unit: Unit, pool: str) -> Ask:
        group = self._flight.groups[unit.key]
        batch = self._batch(group, unit, pool)
        chunks = {unit: group.chunks[unit.chunk]}
        if len(batch) > 1:
            chunks = {each: chunk for each in batch if (chunk := self._joins(each, unit, pool))}
        for chunk in chunks.values():
            self._flight.begin(chunk, pool)
        workers = (group.failures(chunk, pool).workers for chunk in chunks.values())
        return Ask(pool, batch, tuple(chunks), group.version, frozenset().union(*workers))

    def _batch(self, group: OpenGroup, unit: Unit, pool: str) -> tuple[Unit, ...]:
        """The units that are made with this one, it among them."""
        if not group.in_batch(group.chunks[unit.chunk], pool):
            return (unit,)
        return tuple(Unit(key.stream, key.step, key.group, unit.chunk) for key in group.together)

    def _joins(self, unit: Unit, first: Unit, pool: str) -> Chunk | None:
        """The chunk of a unit that waits for this pool, and not to be there alone, if it is not the first one."""
        group = self._flight.groups.get(unit.key)
        if group is None or (pool in group.alone and unit != first):
            return None
        chunk = group.chunks[unit.chunk]
        return chunk if pool in chunk.waits else None

    # -- events

    def _done(self, event: Done) -> None:
        unit, flight = event.unit, self._flight
        group = flight.back(unit, event.pool)
        chunk = group.chunks[unit.chunk]
        flight.hold(chunk, event.pool, event.num_bytes)
        if group.quarantined:
            self._let_go(group)
        else:
            self._go_on(group, unit)

    def _go_on(self, group: OpenGroup, unit: Unit) -> None:
        """A pool has done its part for a unit, or was spared: if that was the last of its stage, the unit has passed it."""
        chunk = group.chunks[unit.chunk]
        if chunk.lost:
            return self._begin_again(group, unit)
        if chunk.waits or chunk.busy:
            return
        if chunk.stage + 1 < len(group.stages):
            return self._flight.arrive(group, unit, chunk.stage + 1)
        chunk.stage = len(group.stages)
        if all(chunk.stage == len(group.stages) for chunk in group.chunks):
            group.complete = True
            self._notices.append(Settled(group.key))
            self._settle(group)

    def _failed(self, event: Failed) -> None:
        unit = event.unit
        group = self._flight.back(unit, event.pool)
        chunk = group.chunks[unit.chunk]
        if group.quarantined:
            return self._let_go(group)
        if chunk.lost and event.retry:
            return self._begin_again(group, unit)
        failures = group.failures(chunk, event.pool)
        failures.add(event)
        given_up = not event.retry or failures.too_many(self.plan)
        if given_up and event.retry and group.in_batch(chunk, event.pool):
            # a batch failed too often: each of its groups is tried on its own, so that one alone is to blame
            group.alone.add(event.pool)
            failures.forget()
            self._flight.wait(chunk, unit, event.pool)
        elif given_up and event.pool in group.spared:
            self._notices.append(Spared(unit, event.pool, event.message))
            self._go_on(group, unit)
        elif given_up:
            self._quarantine(group, event, failures.tries)
        elif event.cause == "object_lost" and chunk.stage > 0:
            chunk.lost = True
            self._flight.give_up_waiting(chunk)
            self._begin_again(group, unit)
        else:
            self._flight.wait(chunk, unit, event.pool)

    def _begin_again(self, group: OpenGroup, unit: Unit) -> None:
        """A payload of a unit is lost: it passes all stages again, once no pool is at work on it."""
        chunk = group.chunks[unit.chunk]
        if not chunk.busy:
            chunk.lost = False
            self._flight.arrive(group, unit, 0)

    def _trained(self, step: int) -> None:
        train, self._training = self._training, None
        assert train is not None, f"step {step} is not in training"
        assert train.step == step, f"step {train.step} is in training, not step {step}"
        self.version = step
        self._admission.finished += len(train.groups)
        for key in train.groups:
            self._release(self._flight.groups[key])
        self._begin_sweeps(step)

    # -- groups

    def _begin_sweeps(self, version: int) -> None:
        for name, sweeps in self._admission.sweeps.items():
            if sweeps.due(version) and sweeps.begin(version):
                self._notices.append(Swept(name, version))

    def _settle(self, group: OpenGroup) -> None:
        """The group is complete or quarantined: count it where it is waited for."""
        key = group.key
        if sweeps := self._admission.sweeps.get(key.stream):
            if group.complete:
                self._release(group)
            if sweeps.settled(key.step):
                self._notices.append(Swept(key.stream, key.step))
        else:
            self._admission.order.settled(key, group.version, group.complete)
            self._admission.finished += group.quarantined
            self._failures_in_row = 0 if group.complete else self._failures_in_row + 1

    def _quarantine(self, group: OpenGroup, event: Failed, tries: int) -> None:
        group.quarantined = True
        self._num_quarantined += 1
        self._notices.append(Quarantined(group.key, event.cause, event.message, tries))
        for chunk in group.chunks:
            self._flight.give_up_waiting(chunk)
        self._settle(group)
        self._let_go(group)
        if self._failures_in_row > self.plan.max_failures_in_row:
            row = self._failures_in_row
            self._abort(f"{row} training groups in a row were quarantined; the last one failed with: {event.message}")

    def _let_go(self, group: OpenGroup) -> None:
        """A quarantined group is released once no worker has a chunk of it."""
        if not group.busy:
            self._release(group)

    def _release(self, group: OpenGroup) -> None:
        self._flight.release(group)
        self._notices.append(Released(group.key))

    def _abort(self, reason: str) -> None:
        self._aborted = True
        self._notices.append(Abort(reason))
