"""The two orders of training: which policy version draws the next group, and which groups make a step.

Training groups form a stream, counted from 0: group g of step s has index (s - 1) * groups_per_step + g. An order says
how far along the stream groups may begin (`window`), by which version the group at an index is drawn (`version_for`),
and hands out a step's groups (`take`) once it can.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Protocol

from pipelines.engine.messages import GroupKey


class Order(Protocol):
    """What the loop asks of an order."""

    def __init__(self, steps: int, groups_per_step: int, staleness: int) -> None: ...

    def window(self, version: int, finished: int) -> int:
        """Groups below this index may begin. `version`: the newest; `finished`: groups trained or quarantined."""

    def version_for(self, index: int, version: int) -> int:
        """The version that draws the group at `index` if it begins now."""

    def opened(self, version: int) -> None:
        """The next group of the stream began, to be drawn by `version`."""

    def settled(self, key: GroupKey, version: int, complete: bool) -> None:
        """A group is complete, or (not complete) quarantined."""

    def take(self, step: int) -> tuple[GroupKey, ...] | None:
        """The groups of `step` in stream order, or None while it must wait. Called again only for the next step."""


class StrictOrder:
    """Step s trains on its own groups, drawn by version max(0, s - 1 - staleness): a pure function of the recipe."""

    def __init__(self, steps: int, groups_per_step: int, staleness: int) -> None:
        self._groups_per_step = groups_per_step
        self._staleness = staleness
        self._num_settled: Counter[int] = Counter()
        self._complete: dict[int, list[GroupKey]] = {}

    def window(self, version: int, finished: int) -> int:
        return (version + 1 + self._staleness) * self._groups_per_step

    def version_for(self, index: int, version: int) -> int:
        step = index // self._groups_per_step if self._groups_per_step else version  # without groups none is behind
        return max(0, step - self._staleness)

    def opened(self, version: int) -> None:
        pass

    def settled(self, key: GroupKey, version: int, complete: bool) -> None:
        self._num_settled[key.step] += 1
        if complete:
            self._complete.setdefault(key.step, []).append(key)

    def take(self, step: int) -> tuple[GroupKey, ...] | None:
        if self._num_settled[step] < self._groups_per_step:
            return None
        del self._num_settled[step]
        return tuple(sorted(self._complete.pop(step, []), key=lambda key: key.group))


class ReadyOrder:
    """A step trains on what is complete, oldest version first, within the bound: version >= step - 1 - staleness.

    Groups are drawn by the newest version, at most (staleness + 1) * groups_per_step of them begun and not trained. A
    step waits as long as what it would leave behind could not all be trained in time: of the groups that are due within
    the n steps after it, at most n * groups_per_step may remain. So no group that was drawn ever gets too stale.
    """

    def __init__(self, steps: int, groups_per_step: int, staleness: int) -> None:
        self._groups_per_step = groups_per_step
        self._staleness = staleness
        self._left = steps * groups_per_step  # of the whole run, neither taken nor quarantined
        self._open: Counter[int] = Counter()  # version -> groups begun, neither taken nor quarantined
        self._complete: dict[int, deque[GroupKey]] = {}  # version -> groups as they were completed

    def window(self, version: int, finished: int) -> int:
        return finished + (self._staleness + 1) * self._groups_per_step

    def version_for(self, index: int, version: int) -> int:
        return version

    def opened(self, version: int) -> None:
        self._open[version] += 1

    def settled(self, key: GroupKey, version: int, complete: bool) -> None:
        if complete:
            self._complete.setdefault(version, deque()).append(key)
        else:
            self._left -= 1
            self._remove(version)

    def take(self, step: int) -> tuple[GroupKey, ...] | None:
        size = min(self._groups_per_step, self._left)
        if sum(len(keys) for keys in self._complete.values()) < size or not self._leaves_enough_time(step, size):
            return None
        taken: list[GroupKey] = []
        while len(taken) < size:
            version = min(self._complete)
            taken.append(self._complete[version].popleft())
            if not self._complete[version]:
                del self._complete[version]
            self._remove(version)
        self._left -= size
        return tuple(sorted(taken, key=lambda key: (key.step, key.group)))

    def _leaves_enough_time(self, step: int, size: int) -> bool:
        num_open = num_complete = 0
        for steps_after, version in enumerate(range(step - 1 - self._staleness, step)):
            num_open += self._open[version]
            num_complete += len(self._complete.get(version, ()))
            if num_open - min(size, num_complete) > steps_after * self._groups_per_step:
                return False
        return True

    def _remove(self, version: int) -> None:
        self._open[version] -= 1
        if not self._open[version]:
            del self._open[version]


ORDERS: dict[str, type[Order]] = {"strict": StrictOrder, "ready": ReadyOrder}
