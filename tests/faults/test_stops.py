"""A run with its own Ray is stopped as `timeout`, Slurm and a terminal do it, at any moment: it ends in order, and can go on."""

from __future__ import annotations

import signal

from tests.faults.conftest import Reference, Start
from tests.faults.harness import LOCAL, digest_of, eventually_nothing, still_alive
from tests.support.faults_world import Process, Run, descendants, workers

STEPS = 30
STOPPED_AT_THE_START = "stopped before the first step"


def test_a_run_that_is_stopped_with_its_process_group_at_three_moments(start: Start, reference: Reference) -> None:
    """While its Ray starts, while its workers do, and in the middle of training."""
    run = start(address="", loop__steps=STEPS)
    run.until(lambda: rays(run), "Ray's first process")
    stop(run, signal.SIGTERM)
    assert run.folder.read_state()["message"] == STOPPED_AT_THE_START

    run = run.resume()
    run.until(lambda: workers("PlainPolicy"), "a worker")
    stop(run, signal.SIGHUP)
    assert run.folder.read_state()["message"] == STOPPED_AT_THE_START
    assert [event["message"] for event in run.events("stopped")] == [STOPPED_AT_THE_START] * 2
    assert STOPPED_AT_THE_START in run.output()
    assert run.steps() == 0

    run = run.resume()
    run.reach(3)
    stop(run, signal.SIGTERM)
    assert "message" not in run.folder.read_state()
    assert 3 <= run.steps() < STEPS

    assert digest_of(run.resume(*LOCAL)) == reference(loop__steps=STEPS)


def rays(run: Run) -> list[Process]:
    """Ray's own processes below a run, but not those that are Python as the run is and have not begun yet."""
    return [process for process in descendants(run.process.pid) if "/ray/core/src/" in process.title]


def stop(run: Run, number: signal.Signals) -> None:
    """Sends the signal to the run and its group: the run ends as one that was stopped, and nothing of it is left."""
    below = descendants(run.process.pid)
    run.signal_group(number)
    assert run.end() == 130, run.output()
    assert run.folder.read_state()["status"] == "stopped"
    assert eventually_nothing(lambda: still_alive(below)) == []
    for word in ("Traceback", "SIGTERM received", "SIGABRT"):
        assert word not in run.output()
