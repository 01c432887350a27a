"""Deadlines: from what was measured, between a floor and the first guess."""

from __future__ import annotations

from pipelines.engine.tickets import RECENT, Deadlines


def test_before_anything_is_measured_the_first_guess_holds() -> None:
    deadlines = Deadlines(first_s=100.0, floor_s=2.0, factor=10.0)
    deadlines.took("score", 1.0)
    assert deadlines.of("draw") == 100.0
    assert deadlines.mean("draw") is None


def test_a_deadline_is_a_multiple_of_the_longest_between_floor_and_first() -> None:
    deadlines = Deadlines(first_s=100.0, floor_s=2.0, factor=10.0)
    deadlines.took("draw", 0.01)
    assert deadlines.of("draw") == 2.0
    deadlines.took("draw", 3.0)
    deadlines.took("draw", 1.0)
    assert deadlines.of("draw") == 30.0
    deadlines.took("draw", 50.0)
    assert deadlines.of("draw") == 100.0


def test_what_was_long_ago_is_forgotten() -> None:
    deadlines = Deadlines(first_s=100.0, floor_s=2.0, factor=10.0)
    deadlines.took("draw", 5.0)
    for _ in range(RECENT):
        deadlines.took("draw", 1.0)
    assert deadlines.of("draw") == 10.0
    assert deadlines.mean("draw") == 1.0


def test_a_task_that_was_late_gets_twice_the_time() -> None:
    deadlines = Deadlines(first_s=100.0, floor_s=2.0, factor=10.0)
    assert [deadlines.of("draw", late_before=times) for times in range(3)] == [100.0, 200.0, 400.0]
