"""The autoscaler on simulated pools in virtual time: it grows and shrinks as it should, and does not flap."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from cluster.control.autoscale import Autoscaler, AutoscaleSettings, Limits, Load

SETTINGS = AutoscaleSettings()


class SimulatedPool:
    """Workers that take `task_s` per task and `start_s` to start; advised once a second."""

    def __init__(self, size: int, limits: Limits, task_s: float, start_s: float = 8.0) -> None:
        self.task_s, self.start_s = task_s, start_s
        self.scaler = Autoscaler({"pool": limits}, SETTINGS)
        self.now = 0.0
        self.wanted = size
        self.starting: list[float] = []  # when they will be ready
        self.ends: list[float] = []  # of the tasks that run
        self.waiting = 0
        self.ready = size
        self.sizes = [(0.0, size)]

    def run(self, seconds: float, arrivals: Callable[[float], int]) -> None:
        """`arrivals(now)`: how many tasks come in this second."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            while self.starting and self.starting[0] <= self.now:
                heapq.heappop(self.starting)
                self.ready += 1
            while self.ends and self.ends[0] <= self.now:
                heapq.heappop(self.ends)
            self.ready = max(self.wanted - len(self.starting), len(self.ends))  # a worker that leaves finishes first
            self.waiting += arrivals(self.now)
            while self.waiting and len(self.ends) < min(self.ready, self.wanted):
                self.waiting -= 1
                heapq.heappush(self.ends, self.now + self.task_s)
            load = Load(self.waiting, len(self.ends), self.ready, self.wanted, self.task_s)
            self.resize(self.scaler.advise(self.now, {"pool": load}).get("pool", self.wanted))

    def resize(self, size: int) -> None:
        if size != self.wanted:
            self.sizes.append((self.now, size))
        for _ in range(size - self.wanted):
            heapq.heappush(self.starting, self.now + self.start_s)
        del self.starting[size:]
        self.wanted = size

    @property
    def turns(self) -> int:
        """How often it changed its mind: from growing to shrinking, or back."""
        signs = [after > before for (_, before), (_, after) in pairwise(self.sizes)]
        return sum(one != other for one, other in pairwise(signs))

    def changes_since(self, when: float) -> int:
        return sum(time > when for time, _ in self.sizes)


def steady(per_s: float, rng: random.Random | None = None) -> Callable[[float], int]:
    """So many tasks a second: evenly, or by chance (Poisson)."""

    def arrivals(now: float) -> int:
        if rng is None:
            return int(per_s * now) - int(per_s * (now - 1))
        num, time = 0, rng.expovariate(per_s)
        while time < 1.0:
            num, time = num + 1, time + rng.expovariate(per_s)
        return num

    return arrivals


def waves(num: int, every_s: float) -> Callable[[float], int]:
    """`num` tasks at once, every so many seconds: a strict on-policy loop, whose policy trains in the meantime."""
    return lambda now: num if now % every_s == 1.0 else 0


def test_a_bottleneck_grows_to_what_is_needed_and_stays() -> None:
    pool = SimulatedPool(2, Limits(1, 100), task_s=5.0)
    pool.run(300, steady(4.0))  # 20 workers' work
    assert pool.wanted >= 20
    pool.run(3600, steady(4.0))
    assert 20 <= pool.wanted <= 1 + 20 / (1 - SETTINGS.idle_share) + 1, "what the first queue took is given back"
    assert pool.waiting == 0
    settled = pool.now
    pool.run(3600, steady(4.0))
    assert pool.changes_since(settled) == 0
    assert pool.turns <= 1


def test_when_the_load_falls_it_shrinks_to_the_least_one_by_one() -> None:
    pool = SimulatedPool(8, Limits(3, 10), task_s=5.0)
    pool.run(120, steady(1.5))
    assert pool.wanted == 8
    pool.run(600, lambda now: 0)
    assert [size for _, size in pool.sizes] == [8, 7, 6, 5, 4, 3]
    times = [time for time, _ in pool.sizes[1:]]
    assert times[0] >= 120
    assert all(later - earlier >= SETTINGS.shrink_after_s for earlier, later in pairwise(times))


@pytest.mark.parametrize("per_s", [0.1, 0.7, 1.3, 1.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_steady_load_with_chance_settles(per_s: float, seed: int) -> None:
    pool = SimulatedPool(4, Limits(1, 16), task_s=5.0)
    pool.run(8 * 3600, steady(per_s, random.Random(f"{seed} {per_s}")))
    assert pool.turns <= 5, pool.sizes
    assert pool.changes_since(4 * 3600) <= 3, pool.sizes


@pytest.mark.parametrize("every_s", [20, 45, 90, 180, 400, 900])
@pytest.mark.parametrize("num", [10, 40, 150])
def test_waves_of_a_strict_loop_do_not_make_it_oscillate(num: int, every_s: int) -> None:
    pool = SimulatedPool(4, Limits(1, 40), task_s=5.0)
    pool.run(20 * every_s, waves(num, every_s))
    assert pool.turns <= 4, pool.sizes
    settled = pool.now
    pool.run(40 * every_s, waves(num, every_s))
    assert pool.changes_since(settled) <= 1, pool.sizes


def test_waves_are_worked_off_in_time() -> None:
    pool = SimulatedPool(2, Limits(1, 100), task_s=5.0)
    pool.run(20 * 120, waves(100, 120))
    assert 100 * 5.0 / pool.wanted <= SETTINGS.queue_s + SETTINGS.grow_after_s + 5.0


def test_limits_are_kept() -> None:
    pool = SimulatedPool(2, Limits(2, 5), task_s=5.0)
    pool.run(600, steady(10.0))
    assert pool.wanted == 5
    pool.waiting = 0
    pool.run(3600, lambda now: 0)
    assert pool.wanted == 2
    assert {size for _, size in pool.sizes} <= {2, 3, 4, 5}


def test_a_pool_whose_workers_still_start_is_not_grown_further() -> None:
    pool = SimulatedPool(2, Limits(1, 100), task_s=5.0, start_s=200.0)
    pool.run(200, steady(10.0))
    assert [size for _, size in pool.sizes] == [2, 4]
    pool.run(100, steady(10.0))
    assert pool.sizes[2][1] == 8
    assert pool.sizes[2][0] >= pool.sizes[1][0] + 200 + SETTINGS.grow_after_s


def test_without_a_measured_task_there_is_no_advice() -> None:
    scaler = Autoscaler({"pool": Limits(1, 10)}, SETTINGS)
    for now in range(300):
        assert scaler.advise(float(now), {"pool": Load(1000, 2, 2, 2, None)}) == {}


def test_a_short_peak_changes_nothing() -> None:
    pool = SimulatedPool(4, Limits(4, 10), task_s=5.0)
    pool.run(600, lambda now: 12 if now == 100 else 0)
    assert pool.wanted == 4


def test_a_refused_change_is_not_advised_every_second() -> None:
    scaler = Autoscaler({"pool": Limits(1, 10)}, SETTINGS)
    advised = [now for now in range(120) if scaler.advise(float(now), {"pool": Load(100, 2, 2, 2, 5.0)})]
    assert len(advised) >= 2
    assert all(later - earlier >= SETTINGS.grow_after_s for earlier, later in pairwise(advised))


def test_pools_are_judged_each_by_its_own_load() -> None:
    scaler = Autoscaler({"rollout": Limits(1, 10), "reward": Limits(1, 10)}, SETTINGS)
    advice = {}
    for now in range(20):
        loads = {"rollout": Load(100, 2, 2, 2, 5.0), "reward": Load(0, 2, 2, 2, 5.0)}
        advice |= scaler.advise(float(now), loads)
    assert advice == {"rollout": 4}
