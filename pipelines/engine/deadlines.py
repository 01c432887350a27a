"""How long a task may take before its worker counts as hung: a multiple of what tasks of its kind took."""

from __future__ import annotations

from collections import defaultdict, deque

RECENT = 64


class Deadlines:
    """Durations of tasks by kind, in seconds.

    A deadline is `factor` times the longest of the last RECENT tasks of the kind, at least `floor_s` and at most `first_s`,
    which is also the deadline as long as nothing of the kind was measured.
    """

    def __init__(self, first_s: float, floor_s: float, factor: float) -> None:
        self.first_s, self.floor_s, self.factor = first_s, floor_s, factor
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def took(self, kind: str, seconds: float) -> None:
        """A task of this kind was done."""
        self._seconds[kind].append(seconds)

    def of(self, kind: str, late_before: int = 0) -> float:
        """The deadline of the next task; twice as long for each time that it was given to a worker in vain."""
        seconds = self._seconds.get(kind)
        deadline = min(self.first_s, max(self.floor_s, self.factor * max(seconds))) if seconds else self.first_s
        return deadline * 2**late_before

    def mean(self, kind: str) -> float | None:
        """The mean of the recent durations; None before the first."""
        seconds = self._seconds.get(kind)
        return sum(seconds) / len(seconds) if seconds else None
