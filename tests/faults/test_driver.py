"""The driver is killed at any moment: the next start with --resume goes on from the last complete checkpoint, to the same digest."""

from __future__ import annotations

from pathlib import Path

from tests.faults.conftest import Reference, Start
from tests.faults.harness import LOCAL, complete_checkpoints, digest_of, is_whole
from tests.support.faults_world import Process, Run, go_on

LENGTH = {"loop__steps": 40, "loop__staleness": 2}


def test_a_driver_that_is_killed_at_three_moments_and_resumed(start: Start, reference: Reference) -> None:
    """While a worker scores, gathers a checkpoint, and has written half of one, which then does not count."""
    run = start(**LENGTH, loop__checkpoint_every=1)
    newest: list[int] = []
    for moment in ("PlainReward.score", "PlainPolicy.snapshot"):
        run.reach(run.steps() + 5)
        working = run.catch(moment)
        newest.append(kill_the_driver(run))
        go_on(working)
        run = run.resume()
    run.reach(run.steps() + 5)
    writer = catch_half_way(run)
    newest.append(kill_the_driver(run))
    writer.kill()
    (unfinished,) = half_written(run.out / "checkpoints")
    assert int(unfinished.name[:11].removeprefix("step-")) > newest[-1]

    run = run.resume(*LOCAL)
    assert digest_of(run) == reference(**LENGTH)
    resumed = [event["step"] for event in run.events("resumed")]
    assert resumed[-1] == newest[-1]
    assert [after >= before for after, before in zip(resumed, newest, strict=True)] == [True] * 3
    assert half_written(run.out / "checkpoints") == []


def kill_the_driver(run: Run) -> int:
    """Kills the driver and nothing else; returns the step of the newest checkpoint, which is whole."""
    run.until(lambda: complete_checkpoints(run.out / "checkpoints"), "a checkpoint")
    run.kill()
    assert run.folder.read_state()["status"] == "running", "it could not even say that it ends"
    newest = complete_checkpoints(run.out / "checkpoints")[-1]
    assert is_whole(newest)
    return int(newest.name.removeprefix("step-"))


def catch_half_way(run: Run) -> Process:
    """The process that writes a checkpoint, stopped when it has written a part of it."""
    while True:
        writer = run.catch("Storage.write")
        if half_written(run.out / "checkpoints"):
            return writer
        go_on(writer)


def half_written(checkpoints: Path) -> list[Path]:
    """Places under way: there are files of a checkpoint, and no manifest."""
    places = [path for path in checkpoints.glob("*") if path.is_dir() and not (path / "manifest.json").exists()]
    return [place for place in places if any(path.is_file() for path in place.rglob("*"))]
