"""Calls of workers: what counts, what is asked for again, and that waiting for one loses no other."""

from __future__ import annotations

import pytest

from cluster.executors.local import LocalExecutor
from cluster.tasks import Outcome, PoolSpec
from pipelines.engine.tickets import CallFailed, Tickets
from pipelines.recipe.tables import Cluster
from tests.support.outbox import Outbox, comes_back

LIMITS = Cluster(task_timeout_s=100.0, deadline_floor_s=1.0, deadline_factor=10.0)


class Worker:
    """Adds."""

    def add(self, a: int, b: int) -> int:
        return a + b

    def refuse(self) -> None:
        raise ValueError("no")


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def tickets(outbox: Outbox) -> Tickets:
    return Tickets(outbox, LIMITS)


@pytest.fixture
def at_work() -> Tickets:
    """Of workers that do work, one call after the other."""
    executor = LocalExecutor([PoolSpec("pool", Worker)])
    executor.start()
    return Tickets(executor, LIMITS)


def test_what_was_asked_for_in_an_earlier_era_does_not_count_but_for_what_survives(
    tickets: Tickets, outbox: Outbox
) -> None:
    took: list[Outcome] = []
    tickets.call("pool", Worker.add, (1, 2), took.append)
    tickets.call("pool", Worker.add, (3, 4), took.append, survives_era=True)
    tickets.begin_era()
    tickets.call("pool", Worker.add, (5, 6), took.append)
    for task in outbox.sent:
        comes_back(tickets, task, sum(task.args))
    assert [outcome.value for outcome in took] == [7, 11]


@pytest.mark.parametrize("cause", ["worker_lost", "deadline"])
def test_a_call_whose_worker_was_lost_is_made_again_so_often_as_was_said(
    tickets: Tickets, outbox: Outbox, cause
) -> None:
    took: list[Outcome] = []
    tickets.call("pool", Worker.add, (1, 2), took.append, retries=2)
    for number in range(3):
        assert not took
        assert (outbox.sent[number].method, outbox.sent[number].args) == ("add", (1, 2))
        comes_back(tickets, outbox.sent[number], cause=cause)
    assert [outcome.failure.cause for outcome in took] == [cause]
    assert tickets.health.retries == {cause: 2}, "the last one is told by who asked"
    assert len(outbox.sent) == 3


@pytest.mark.parametrize("cause", ["raised", "object_lost"])
def test_what_another_worker_would_not_do_either_is_not_asked_for_again(
    tickets: Tickets, outbox: Outbox, cause
) -> None:
    took: list[Outcome] = []
    tickets.call("pool", Worker.add, (1, 2), took.append, retries=2)
    comes_back(tickets, outbox.sent[0], cause=cause)
    assert [outcome.failure.cause for outcome in took] == [cause]


def test_a_call_of_an_earlier_era_is_not_made_again(tickets: Tickets, outbox: Outbox) -> None:
    tickets.call("pool", Worker.add, (1, 2), lambda outcome: None, retries=2)
    tickets.begin_era()
    comes_back(tickets, outbox.sent[0], cause="worker_lost")
    assert len(outbox.sent) == 1


def test_the_same_work_has_an_equal_key_so_that_a_worker_is_not_blamed_for_it_three_times(
    tickets: Tickets, outbox: Outbox
) -> None:
    for about in ("chunk 1", "chunk 1", "chunk 2"):
        tickets.call("pool", Worker.add, (1, 2), lambda outcome: None, about)
    first, again, other = (task.key for task in outbox.sent)
    assert len({first, again}) == 1
    assert first != other


def test_deadlines_follow_what_calls_of_the_kind_took(tickets: Tickets, outbox: Outbox) -> None:
    for purpose in ("train", "heldout"):
        tickets.call("pool", Worker.add, (1, 2), lambda outcome: None, purpose=purpose)
    comes_back(tickets, outbox.sent[0], 3)
    avoid = frozenset({"pool-0"})
    tickets.call("pool", Worker.add, (1, 2), lambda outcome: None, purpose="train", avoid=avoid)
    tickets.call("pool", Worker.add, (1, 2), lambda outcome: None, purpose="heldout")
    assert [task.deadline_s for task in outbox.sent] == [100.0, 100.0, 2.0, 100.0]
    assert tickets.deadlines.mean("add train") == pytest.approx(0.1)
    assert tickets.mean_seconds("pool") == pytest.approx(0.1)


def test_what_comes_back_while_a_call_is_waited_for_goes_to_who_asked(at_work: Tickets) -> None:
    took: list[int] = []
    at_work.call("pool", Worker.add, (1, 2), lambda outcome: took.append(outcome.value))
    assert at_work.now("pool", Worker.add, (3, 4)).value == 7
    assert took == [3]


def test_a_call_that_is_waited_for_and_fails_says_which(at_work: Tickets) -> None:
    with pytest.raises(CallFailed, match=r"refuse: (?s:.)*ValueError: no") as raised:
        at_work.now("pool", Worker.refuse, ())
    assert (raised.value.method, raised.value.failure.cause) == ("refuse", "raised")
