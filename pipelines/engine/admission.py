"""Which groups may begin: those of sweeps before those for updates, within the window of the order and what may be in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from pipelines.engine.groups import InFlight
from pipelines.engine.messages import GroupKey, LoopPlan, Steps, Sweeps
from pipelines.engine.order import ORDERS, Order

NO_UPDATES = Steps(stages=(), steps=0, groups_per_step=0)


class OpenSweeps:
    """The sweeps of a stream that have begun: which groups wait to begin together, and how many are not settled."""

    def __init__(self, stream: str, tasks: Mapping[int, Sequence[int]]) -> None:
        self.stream, self._tasks = stream, tasks
        self.unsettled: dict[int, int] = {}  # version -> groups
        self.num_waiting = 0  # groups that are yet to begin
        self._next: deque[tuple[int, int, int]] = deque()  # of each version the next task, and its first group

    def due(self, version: int) -> bool:
        """Whether there is a sweep of this version."""
        return version in self._tasks

    def begin(self, version: int) -> bool:
        """The sweep of a version begins; True if it is over at once, for want of groups."""
        self.unsettled[version] = sum(self._tasks[version])
        self.num_waiting += self.unsettled[version]
        if self.unsettled[version]:
            self._next.append((version, 0, 0))
        return self._is_over(version)

    def next(self) -> tuple[GroupKey, ...]:
        """The groups that may begin next, together; none if none waits."""
        if not self._next:
            return ()
        version, task, first = self._next[0]
        size = self._tasks[version][task]
        return tuple(GroupKey(self.stream, version, group) for group in range(first, first + size))

    def take(self) -> None:
        """Those have begun."""
        version, task, first = self._next.popleft()
        size = self._tasks[version][task]
        self.num_waiting -= size
        if task + 1 < len(self._tasks[version]):
            self._next.appendleft((version, task + 1, first + size))

    def settled(self, version: int) -> bool:
        """A group is complete or quarantined; True if it was the last one of its sweep."""
        self.unsettled[version] -= 1
        return self._is_over(version)

    def oldest(self) -> tuple[int, int, int] | None:
        """Of the oldest under way: its version, groups settled, groups."""
        if not self.unsettled:
            return None
        version = min(self.unsettled)
        groups = sum(self._tasks[version])
        return version, groups - self.unsettled[version], groups

    def _is_over(self, version: int) -> bool:
        over = self.unsettled[version] == 0
        if over:
            del self.unsettled[version]
        return over


class Admission:
    """Begins groups. Those for updates are counted along their stream (step, group): `opened` so far, and `finished`.

    paused: the pools for which a group waits that may not begin yet, since too much is in flight.
    """

    def __init__(self, plan: LoopPlan, flight: InFlight) -> None:
        self.plan, self.flight = plan, flight
        self.sweeps = {
            name: OpenSweeps(name, stream.tasks) for name, stream in plan.streams.items() if isinstance(stream, Sweeps)
        }
        found = [(name, stream) for name, stream in plan.streams.items() if isinstance(stream, Steps)]
        self.stream, self.updates = found[0] if found else ("", NO_UPDATES)
        steps = self.updates.steps - plan.first_version
        self.order: Order = ORDERS[self.updates.order](steps, self.updates.groups_per_step, self.updates.staleness)
        self.opened = self.finished = (
            plan.first_version * self.updates.groups_per_step
        )  # finished: trained or quarantined
        self.paused: set[str] = set()

    def open_next(self, pool: str, version: int) -> bool:
        """Begins the next groups that may begin together at a pool, those of sweeps first; whether there are any."""
        self.paused.discard(pool)
        return self._open_sweep(pool) or self._open_updates(pool, version)

    def unopened(self, pool: str, version: int) -> int:
        """Units that a pool will have to do of groups that may begin, as far as room allows."""
        waiting = 0
        if _begins_at(pool, self.updates):
            waiting += max(0, self._window(version) - self.opened) * self.updates.chunks_per_group
        for name, sweeps in self.sweeps.items():
            if _begins_at(pool, self.plan.streams[name]):
                waiting += sweeps.num_waiting * self.plan.streams[name].chunks_per_group
        return waiting

    def next_version(self, version: int) -> int:
        """By which the next group for updates is made, were it to begin now; also past the last one of all."""
        return self.order.version_for(self.opened, version)

    def _open_sweep(self, pool: str) -> bool:
        for name, sweeps in self.sweeps.items():
            stream = self.plan.streams[name]
            if not _begins_at(pool, stream) or not (keys := sweeps.next()):
                continue
            # with nothing else open a group is admitted whatever the limits: otherwise it never would be
            if self._has_room(len(keys), stream.chunks_per_group) or not self.flight.groups:
                sweeps.take()
                self.flight.open(keys, keys[0].step, stream)
                return True
            self.paused.add(pool)
        return False

    def _open_updates(self, pool: str, version: int) -> bool:
        stream = self.updates
        if not _begins_at(pool, stream) or self.opened >= self._window(version):
            return False
        keys = self._next_task(version)
        # the oldest untrained step must not wait for room, since only its update makes room
        oldest = self.opened - self.finished < stream.groups_per_step
        if not oldest and not self._has_room(len(keys), stream.chunks_per_group):
            self.paused.add(pool)
            return False
        made_by = self.next_version(version)
        for _ in keys:
            self.opened += 1
            self.order.opened(made_by)
        self.flight.open(keys, made_by, stream)
        return True

    def _window(self, version: int) -> int:
        return min(self.updates.steps * self.updates.groups_per_step, self.order.window(version, self.finished))

    def _next_task(self, version: int) -> tuple[GroupKey, ...]:
        """The next groups for updates that are one batch.

        They are of one step, and cut where multiples of `groups_per_task` are; the window cuts them only in an order that goes by time.
        """
        per_step, size = self.updates.groups_per_step, self.updates.groups_per_task
        step, first = divmod(self.opened, per_step)
        last = min((first // size + 1) * size, per_step, first + self._window(version) - self.opened)
        return tuple(GroupKey(self.stream, step + 1, group) for group in range(first, last))

    def _has_room(self, num_groups: int, chunks: int) -> bool:
        """Room for so many more groups; chunks that are not made yet count as large as the largest one seen."""
        groups, num_bytes, flight = self.plan.max_groups_in_flight, self.plan.max_bytes_in_flight, self.flight
        return (groups is None or len(flight.groups) + num_groups <= groups) and (
            num_bytes is None or flight.bytes + num_groups * chunks * flight.largest <= num_bytes
        )


def _begins_at(pool: str, stream: Steps | Sweeps) -> bool:
    """Whether the units of a stream begin at a pool."""
    return bool(stream.stages) and pool in stream.stages[0]
