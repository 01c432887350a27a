"""The state machine of training: which group is drawn by which policy version, what is scored, when to update.

Events go in (`handle`), decisions come out (`decide`). It knows no Ray, no torch, no clock and no worker beyond a name,
so that the same loop runs on a cluster, in one process, and in virtual time. Steps are counted from 1; version n is the
policy after n steps. A group of images is drawn in chunks; a chunk is the unit that is scored, and tried again. Chunks of several
groups may be drawn together, as one batch; which ones, the plan alone decides.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping

from pipelines.engine.evaluations import Evaluations
from pipelines.engine.groups import Failures, OpenGroup, Stage
from pipelines.engine.messages import (
    HELDOUT,
    TRAIN,
    Abort,
    Ask,
    Decision,
    Done,
    Event,
    Failed,
    GroupKey,
    LoopPlan,
    Progress,
    Quarantined,
    Released,
    Settled,
    Swept,
    Train,
    Trained,
    Unit,
)
from pipelines.engine.order import ORDERS

ROLLOUT, REWARD = "rollout", "reward"


class Loop:
    """The loop of one run. The caller reports what happened, asks `decide` what to do, and does all of it."""

    def __init__(self, plan: LoopPlan) -> None:
        self.plan = plan
        self.version = plan.first_version
        self._order = ORDERS[plan.order](plan.steps - plan.first_version, plan.groups_per_step, plan.staleness)
        self._groups: dict[GroupKey, OpenGroup] = {}  # opened and not released
        # training groups are counted along the stream (step, group): those begun; those trained or quarantined
        self._opened = self._finished = plan.first_version * plan.groups_per_step
        self._to_draw: list[tuple[tuple, Unit]] = []  # heaps: the oldest step first, so that retries do not queue
        self._to_score: list[tuple[tuple, Unit]] = []
        self._evaluations = Evaluations(plan.evaluations)
        self._training: Train | None = None
        self._notices: list[Decision] = []
        self._stage_counts: Counter[Stage] = Counter()
        self._bytes = 0
        self._largest_chunk = 0
        self._failures_in_row = 0
        self._num_quarantined = 0
        self._paused = False
        self._aborted = False
        for version in sorted(version for version in plan.evaluations if version <= self.version):
            self._start_evaluation(version)

    # -- what the driver calls

    @property
    def pools(self) -> tuple[str, ...]:
        """Those that units pass."""
        return (ROLLOUT, REWARD)

    def handle(self, event: Event) -> None:
        """Take note of what happened. Events after an abort are ignored."""
        if self._aborted:
            return
        match event:
            case Done(unit, pool, num_bytes):
                self._drawn(unit, num_bytes) if pool == ROLLOUT else self._scored(unit)
            case Failed():
                self._failed(event)
            case Trained(step):
                self._trained(step)

    def decide(self, free: Mapping[str, int]) -> list[Decision]:
        """What to do now with this many idle workers per pool ("rollout", "reward"). A decision is given once."""
        notices, self._notices = self._notices, []
        if self._aborted:
            return notices
        return [
            *notices,
            *self._decide_train(),
            *self._decide_scores(free.get(REWARD, 0)),
            *self._decide_draws(free.get(ROLLOUT, 0)),
        ]

    @property
    def done(self) -> bool:
        """All steps are trained, all evaluations finished, and every notice of that was given."""
        return self.version >= self.plan.steps and not self._evaluations and not self._notices

    def oldest_version_needed(self) -> int:
        """Adapters of older versions can be dropped. Looks at every open group: call it once a step.

        After the last group of all the next one counts as well: a run that is resumed with more steps begins with it.
        """
        next_group = self._order.version_for(self._opened, self.version)
        open_groups = (group.version for group in self._groups.values())
        return min(self.version, next_group, *self._evaluations.versions, *open_groups)

    def progress(self) -> Progress:
        count = self._stage_counts
        unopened = max(0, self._window() - self._opened) * self.plan.chunks_per_group
        heldout = self._evaluations.num_waiting * self.plan.heldout_chunks_per_group
        return Progress(
            version=self.version,
            waiting={ROLLOUT: count[Stage.TO_DRAW] + unopened + heldout, REWARD: count[Stage.TO_SCORE]},
            busy={ROLLOUT: count[Stage.DRAWING], REWARD: count[Stage.SCORING]},
            training=self._training is not None,
            groups_in_flight=len(self._groups),
            bytes_in_flight=self._bytes,
            admission_paused=self._paused,
            quarantined=self._num_quarantined,
            sweep=self._evaluations.oldest(),
        )

    # -- decisions

    def _decide_train(self) -> Iterator[Train]:
        step = self.version + 1
        if self._training is not None or step > self.plan.steps:
            return
        keys = self._order.take(step)
        if keys is not None:
            self._training = Train(step, keys, tuple(self._groups[key].version for key in keys))
            yield self._training

    def _decide_scores(self, free: int) -> Iterator[Ask]:
        while free > 0 and (unit := self._pop(self._to_score, Stage.TO_SCORE)):
            self._move(unit, Stage.SCORING)
            yield Ask(REWARD, (unit,), (unit,), self._groups[unit.key].version, self._avoid(unit))
            free -= 1

    def _decide_draws(self, free: int) -> Iterator[Ask]:
        while free > 0 and (unit := self._pop(self._to_draw, Stage.TO_DRAW) or self._open_next()):
            batch = self._batch_of(unit)
            wanted = tuple(each for each in batch if self._stage_of(each) is Stage.TO_DRAW)
            for each in wanted:
                self._move(each, Stage.DRAWING)
            avoid = frozenset().union(*map(self._avoid, wanted))
            yield Ask(ROLLOUT, batch, wanted, self._groups[unit.key].version, avoid)
            free -= 1

    def _batch_of(self, unit: Unit) -> tuple[Unit, ...]:
        """The chunks that are drawn with this one, it among them."""
        return tuple(Unit(key.stream, key.step, key.group, unit.chunk) for key in self._groups[unit.key].together)

    def _stage_of(self, unit: Unit) -> Stage | None:
        """How far a chunk is; None once its group is released."""
        group = self._groups.get(unit.key)
        return group.stages[unit.chunk] if group else None

    def _avoid(self, unit: Unit) -> frozenset[str]:
        failures = self._groups[unit.key].failures.get(unit.chunk)
        return failures.workers if failures else frozenset()

    # -- admission

    @property
    def _num_groups(self) -> int:
        return self.plan.steps * self.plan.groups_per_step

    def _window(self) -> int:
        return min(self._num_groups, self._order.window(self.version, self._finished))

    def _open_next(self) -> Unit | None:
        """Begin the next groups that may begin together, held-out ones first; their first unit, or None."""
        plan = self.plan
        self._paused = False
        if waiting := self._evaluations.waiting:
            # with nothing else open a group is admitted whatever the limits: otherwise it never would be
            if self._has_room(len(waiting[0]), plan.heldout_chunks_per_group) or not self._groups:
                keys = waiting.popleft()
                return self._open(keys, keys[0].step, plan.heldout_chunks_per_group)
            self._paused = True
        if self._opened < self._window():
            keys = self._next_task()
            # the oldest untrained step must not wait for room, since only its update makes room
            if self._opened - self._finished < plan.groups_per_step or self._has_room(len(keys), plan.chunks_per_group):
                version = self._order.version_for(self._opened, self.version)
                for _ in keys:
                    self._opened += 1
                    self._order.opened(version)
                return self._open(keys, version, plan.chunks_per_group)
            self._paused = True
        return None

    def _next_task(self) -> tuple[GroupKey, ...]:
        """The next groups of the stream that are drawn together.

        They are of one step, and cut where multiples of `groups_per_task` are; the window cuts them only in an order that goes by time.
        """
        step, first = divmod(self._opened, self.plan.groups_per_step)
        size = self.plan.groups_per_task
        last = min((first // size + 1) * size, self.plan.groups_per_step, first + self._window() - self._opened)
        return tuple(GroupKey(TRAIN, step + 1, group) for group in range(first, last))

    def _has_room(self, num_groups: int, chunks: int) -> bool:
        """Room for so many more groups; chunks that are not drawn yet count as large as the largest one seen."""
        groups, num_bytes = self.plan.max_groups_in_flight, self.plan.max_bytes_in_flight
        return (groups is None or len(self._groups) + num_groups <= groups) and (
            num_bytes is None or self._bytes + num_groups * chunks * self._largest_chunk <= num_bytes
        )

    def _open(self, keys: tuple[GroupKey, ...], version: int, chunks: int) -> Unit | None:
        for key in keys:
            self._groups[key] = OpenGroup(key, keys, version, [Stage.TO_DRAW] * chunks, [self._largest_chunk] * chunks)
            self._stage_counts[Stage.TO_DRAW] += chunks
            self._bytes += chunks * self._largest_chunk
            for chunk in range(chunks):
                self._push(self._to_draw, Unit(key.stream, key.step, key.group, chunk))
        return self._pop(self._to_draw, Stage.TO_DRAW)

    # -- events

    def _drawn(self, unit: Unit, num_bytes: int) -> None:
        group = self._expect(unit, Stage.DRAWING)
        self._bytes += num_bytes - group.bytes[unit.chunk]
        group.bytes[unit.chunk] = num_bytes
        self._largest_chunk = max(self._largest_chunk, num_bytes)
        if group.quarantined:
            return self._drop(group, unit)
        self._move(unit, Stage.TO_SCORE)
        self._push(self._to_score, unit)

    def _scored(self, unit: Unit) -> None:
        group = self._expect(unit, Stage.SCORING)
        if group.quarantined:
            return self._drop(group, unit)
        self._move(unit, Stage.SCORED)
        if all(stage is Stage.SCORED for stage in group.stages):
            group.complete = True
            self._settle(group)

    def _failed(self, event: Failed) -> None:
        unit = event.unit
        group = self._expect(unit, Stage.DRAWING, Stage.SCORING)
        if group.quarantined:
            return self._drop(group, unit)
        failures = group.failures.setdefault(unit.chunk, Failures())
        failures.add(event)
        drawing = group.stages[unit.chunk] is Stage.DRAWING
        if event.retry and failures.too_many(self.plan) and drawing and len(group.together) > 1:
            self._draw_alone(group, unit)
        elif not event.retry or failures.too_many(self.plan):
            self._quarantine(group, unit, event, failures.tries)
        elif drawing or event.cause == "object_lost":
            self._move(unit, Stage.TO_DRAW)
            self._push(self._to_draw, unit)
        else:
            self._move(unit, Stage.TO_SCORE)
            self._push(self._to_score, unit)

    def _trained(self, step: int) -> None:
        train, self._training = self._training, None
        assert train is not None, f"step {step} is not in training"
        assert train.step == step, f"step {train.step} is in training, not step {step}"
        self.version = step
        self._finished += len(train.groups)
        for key in train.groups:
            self._release(self._groups[key])
        if step in self.plan.evaluations:
            self._start_evaluation(step)

    # -- groups

    def _start_evaluation(self, version: int) -> None:
        if self._evaluations.begin(version):
            self._notices.append(Swept(HELDOUT, version))

    def _settle(self, group: OpenGroup) -> None:
        """The group is complete or quarantined: count it where it is waited for."""
        key = group.key
        if group.complete:
            self._notices.append(Settled(key))
        if key.stream == HELDOUT:
            if group.complete:
                self._release(group)
            if self._evaluations.settled(key.step):
                self._notices.append(Swept(HELDOUT, key.step))
        else:
            self._order.settled(key, group.version, group.complete)
            self._finished += group.quarantined
            self._failures_in_row = 0 if group.complete else self._failures_in_row + 1

    def _quarantine(self, group: OpenGroup, unit: Unit, event: Failed, tries: int) -> None:
        key = group.key
        group.quarantined = True
        self._num_quarantined += 1
        self._notices.append(Quarantined(key, event.cause, event.message, tries))
        for chunk, stage in enumerate(group.stages):
            if stage not in (Stage.DRAWING, Stage.SCORING):
                self._move(Unit(key.stream, key.step, key.group, chunk), Stage.DROPPED)
        self._settle(group)
        self._drop(group, unit)
        if self._failures_in_row > self.plan.max_failures_in_row:
            row = self._failures_in_row
            self._abort(f"{row} training groups in a row were quarantined; the last one failed with: {event.message}")

    def _draw_alone(self, group: OpenGroup, unit: Unit) -> None:
        """A batch failed too often: each of its groups is tried on its own, so that one alone is to blame."""
        group.together = (group.key,)
        del group.failures[unit.chunk]
        self._move(unit, Stage.TO_DRAW)
        self._push(self._to_draw, unit)

    def _drop(self, group: OpenGroup, unit: Unit) -> None:
        """A unit of a quarantined group came back; with the last one its payloads are let go."""
        self._move(unit, Stage.DROPPED)
        if not group.busy:
            self._release(group)

    def _release(self, group: OpenGroup) -> None:
        del self._groups[group.key]
        self._bytes -= sum(group.bytes)
        self._stage_counts.subtract(group.stages)
        self._notices.append(Released(group.key))

    def _abort(self, reason: str) -> None:
        self._aborted = True
        self._notices.append(Abort(reason))

    # -- units

    def _expect(self, unit: Unit, *stages: Stage) -> OpenGroup:
        group = self._groups[unit.key]
        assert group.stages[unit.chunk] in stages, f"{unit} is {group.stages[unit.chunk].name}: nothing was asked of it"
        return group

    def _move(self, unit: Unit, stage: Stage) -> None:
        stages = self._groups[unit.key].stages
        self._stage_counts[stages[unit.chunk]] -= 1
        self._stage_counts[stage] += 1
        stages[unit.chunk] = stage

    def _push(self, heap: list[tuple[tuple, Unit]], unit: Unit) -> None:
        heapq.heappush(heap, ((unit.step, unit.group, unit.chunk, unit.stream), unit))

    def _pop(self, heap: list[tuple[tuple, Unit]], stage: Stage) -> Unit | None:
        """The first unit of a heap; those of groups that were quarantined meanwhile are passed over."""
        while heap:
            unit = heapq.heappop(heap)[1]
            group = self._groups.get(unit.key)
            if group is not None and group.stages[unit.chunk] is stage:
                return unit
        return None
