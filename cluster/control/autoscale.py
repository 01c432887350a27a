"""When a pool should have another size: by how long its tasks wait. Pure: no Ray, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The sizes that a pool may have, both included. max None: no limit."""

    min: int
    max: int | None = None


@dataclass(frozen=True)
class Load:
    """A pool at one moment. waiting: tasks that could run if there were a worker; task_seconds: how long one takes."""

    waiting: int
    busy: int
    ready: int
    wanted: int
    task_seconds: float | None  # None: not known yet


@dataclass(frozen=True)
class AutoscaleSettings:
    """Seconds, and the share of a pool that should be idle at most.

    A pool grows when its queue would take longer than `queue_s` for `grow_after_s`. It shrinks when, for `shrink_after_s`, one
    worker fewer would have been busy for less than 1 - `idle_share` of the time, and its queue shorter than `queue_s`.
    """

    queue_s: float = 10.0
    grow_after_s: float = 15.0
    idle_share: float = 0.3
    shrink_after_s: float = 60.0


class Autoscaler:
    """Advises sizes from loads. Shrinking asks for more than the opposite of growing, so that a steady load changes nothing.

    A load that comes in waves longer than `shrink_after_s` would still make a pool breathe. So when a pool has to grow
    again after it shrank, it waits from then on twice as long as that swing took before it shrinks.
    """

    def __init__(self, limits: Mapping[str, Limits], settings: AutoscaleSettings) -> None:
        self._pools = {name: _Pool(limit, settings, settings.shrink_after_s) for name, limit in limits.items()}

    def advise(self, now_s: float, loads: Mapping[str, Load]) -> dict[str, int]:
        """The pools that should have another size, and which. To be called about once a second; `now_s` never goes back."""
        sizes = {name: pool.advise(now_s, loads[name]) for name, pool in self._pools.items() if name in loads}
        return {name: size for name, size in sizes.items() if size != loads[name].wanted}


@dataclass
class _Pool:
    limits: Limits
    settings: AutoscaleSettings
    patience_s: float  # before it shrinks
    wanted: int | None = None
    last: float = 0.0
    long_since: float | None = None  # since when the queue has been too long
    quiet_since: float | None = None  # since when it would have been short with one worker fewer
    busy_s: float = 0.0  # worker seconds since then
    swing_began: float | None = None  # when it began to be quiet before it shrank

    def advise(self, now: float, load: Load) -> int:
        if load.wanted != self.wanted:  # whoever changed it
            self.wanted = load.wanted
            self._look_again()
        if load.task_seconds is None or load.ready < load.wanted:
            return load.wanted
        size = load.wanted
        if self._long(now, load):
            size = self._grown(now, load)
        elif self._quiet(now, load) and load.wanted > self.limits.min:
            size -= 1
            self.swing_began = self.quiet_since if self.swing_began is None else self.swing_began
        if size != load.wanted:  # should the change be refused, it is not advised again at once
            self._look_again()
        return size

    def _look_again(self) -> None:
        self.long_since = self.quiet_since = None

    def _long(self, now: float, load: Load) -> bool:
        if _queue_s(load, load.ready) <= self.settings.queue_s:
            self.long_since = None
        elif self.long_since is None:
            self.long_since = now
        return self.long_since is not None and now - self.long_since >= self.settings.grow_after_s

    def _quiet(self, now: float, load: Load) -> bool:
        """Whether one worker fewer would have been enough since `quiet_since`; every `patience_s` it is looked at again."""
        fewer = load.wanted - 1
        if _queue_s(load, fewer) > self.settings.queue_s:
            self.quiet_since = None
            return False
        if self.quiet_since is None:
            self.quiet_since, self.last, self.busy_s = now, now, 0.0
        self.busy_s += load.busy * (now - self.last)
        self.last = now
        seconds = now - self.quiet_since
        if seconds < self.patience_s:
            return False
        if self.busy_s <= (1 - self.settings.idle_share) * fewer * seconds:
            return True
        self.quiet_since = None
        return False

    def _grown(self, now: float, load: Load) -> int:
        """As many as would work off the queue in time; at most twice as many as now."""
        assert load.task_seconds is not None
        needed = math.ceil(load.waiting * load.task_seconds / self.settings.queue_s)
        size = min(max(needed, load.wanted + 1), 2 * load.wanted)
        if self.limits.max is not None:
            size = max(load.wanted, min(size, self.limits.max))
        if size > load.wanted and self.swing_began is not None:
            self.patience_s = max(self.patience_s, 2 * (now - self.swing_began))
            self.swing_began = None
        return size


def _queue_s(load: Load, workers: int) -> float:
    """How long until the last task that waits would begin, with so many workers."""
    queued = load.waiting + load.busy - workers
    return max(0, queued) * (load.task_seconds or 0.0) / max(1, workers)
