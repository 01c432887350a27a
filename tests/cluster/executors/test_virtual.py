"""Virtual time: tasks take as long as their actor says, and nothing waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import PoolSpec, Task


@dataclass
class Sleeper:
    """Sleeps for as long as it is told; a gang of it for as many seconds as it has items."""

    sleep: Callable[[float], None]

    def nap(self, seconds: float) -> float:
        self.sleep(seconds)
        return seconds

    def work(self, *items: int) -> int:
        self.sleep(float(len(items)))
        return len(items)


def executor(size: int = 1, driver_s: float = 0.0) -> VirtualExecutor:
    specs = [PoolSpec("pool", Sleeper, size=size), PoolSpec("gang", Sleeper, size=2, gang=True)]
    return VirtualExecutor(specs, driver_s)


def test_tasks_come_back_in_the_order_in_which_they_end() -> None:
    run = executor(size=2)
    for seconds in (3.0, 1.0, 1.5):  # the third begins when the second has ended
        run.submit(Task("pool", "nap", seconds, (seconds,)))
    ends = []
    while outcomes := run.wait(1.0):
        ends += [(outcome.key, run.now) for outcome in outcomes]
    assert ends == [(1.0, 1.0), (1.5, 2.5), (3.0, 3.0)]


def test_what_ends_at_once_comes_back_together() -> None:
    run = executor(size=3)
    for key in range(3):
        run.submit(Task("pool", "nap", key, (2.0,)))
    assert [outcome.key for outcome in run.wait(1.0)] == [0, 1, 2]
    assert run.now == 2.0
    assert run.free("pool") == 3


def test_the_driver_takes_its_time_for_each_outcome_and_hands_out_nothing_meanwhile() -> None:
    run = executor(size=2, driver_s=0.25)
    run.submit(Task("pool", "nap", "short", (1.0,)))
    run.submit(Task("pool", "nap", "long", (1.125,)))
    assert [outcome.key for outcome in run.wait(1.0)] == ["short"]
    assert run.now == 1.25
    run.submit(Task("pool", "nap", "next", (1.0,)))
    assert [outcome.key for outcome in run.wait(1.0)] == ["long"], "it ended while the driver was busy"
    assert run.now == 1.5
    run.wait(1.0)
    assert run.now == 2.5, "next ended at 2.25, and took the driver 0.25"


def test_a_gang_takes_as_long_as_its_largest_shard() -> None:
    run = executor()
    run.submit(Task("gang", "work", "update", shards=((1,), (1, 2, 3))))
    [outcome] = run.wait(1.0)
    assert (outcome.seconds, outcome.value) == (3.0, 3)


def test_nothing_under_way_gives_nothing_and_no_time_passes() -> None:
    run = executor(driver_s=1.0)
    assert run.wait(1.0) == []
    assert run.now == 0.0


@pytest.mark.parametrize("call", [lambda run: run.resize("pool", 2), lambda run: run.restart("gang")])
def test_what_virtual_time_does_not_know_is_refused(call: Callable[[VirtualExecutor], None]) -> None:
    with pytest.raises(NotImplementedError, match="virtual time"):
        call(executor())
