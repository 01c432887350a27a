"""While a worker is made Python's collector makes few rounds, and as many as ever afterwards."""

import gc

import pytest

from cluster.collector import OBJECTS, rarely_collecting
from cluster.executors.local import LocalExecutor
from cluster.tasks import PoolSpec, WorkerStartError


class Making:
    """Notes how it was made."""

    def __init__(self, seen: int) -> None:
        assert seen == gc.get_threshold()[0]


def executor_of(seen: int) -> LocalExecutor:
    return LocalExecutor([PoolSpec("workers", Making, {"seen": seen}, size=1)])


def test_a_worker_is_made_with_few_rounds_and_works_with_pythons_own() -> None:
    before = gc.get_threshold()
    executor_of(OBJECTS).start()
    assert gc.get_threshold() == before != (OBJECTS, *before[1:])


def test_a_worker_that_cannot_be_made_leaves_the_collector_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(WorkerStartError):
        executor_of(before[0]).start()
    assert gc.get_threshold() == before


def test_garbage_in_cycles_is_still_found() -> None:
    found = []
    with rarely_collecting():
        gc.callbacks.append(lambda phase, info: found.append(phase))
        kept = [[] for _ in range(2 * OBJECTS)]
        gc.callbacks.pop()
    assert len(kept) == 2 * OBJECTS
    assert found
