"""The held-out evaluations of a run as the loop sees them: which groups wait to be drawn together, and how many are not settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise

from pipelines.engine.messages import HELDOUT, GroupKey


class Evaluations:
    """Those that have begun. `sizes`: policy version -> how many groups each draw task has (`LoopPlan.evaluations`)."""

    def __init__(self, sizes: Mapping[int, tuple[int, ...]]) -> None:
        self._sizes = sizes
        self._unsettled: dict[int, int] = {}  # version -> groups
        self.waiting: deque[tuple[GroupKey, ...]] = deque()
        """Groups that are yet to be drawn, those of a task together."""

    def __bool__(self) -> bool:
        """Whether one is under way."""
        return bool(self._unsettled)

    @property
    def versions(self) -> Iterable[int]:
        """That are being evaluated."""
        return self._unsettled

    @property
    def num_waiting(self) -> int:
        """Groups that are yet to be drawn."""
        return sum(map(len, self.waiting))

    def begin(self, version: int) -> bool:
        """An evaluation begins; True if it is over at once, for want of groups."""
        sizes = self._sizes[version]
        self._unsettled[version] = sum(sizes)
        for first, last in pairwise(accumulate(sizes, initial=0)):
            self.waiting.append(tuple(GroupKey(HELDOUT, version, group) for group in range(first, last)))
        return self._is_over(version)

    def settled(self, version: int) -> bool:
        """A group is complete or quarantined; True if it was the last one of its evaluation."""
        self._unsettled[version] -= 1
        return self._is_over(version)

    def oldest(self) -> tuple[int, int, int] | None:
        """Of the oldest under way: its version, groups settled, groups."""
        if not self._unsettled:
            return None
        version = min(self._unsettled)
        groups = sum(self._sizes[version])
        return version, groups - self._unsettled[version], groups

    def _is_over(self, version: int) -> bool:
        over = self._unsettled[version] == 0
        if over:
            del self._unsettled[version]
        return over
