"""The driver is killed at any moment: the next start with --resume goes on from the last complete checkpoint, to the same digest."""

from __future__ import annotations

import random

from bench.faults_world import Run, go_on
from tests.faults.conftest import Reference, Start
from tests.faults.harness import complete_checkpoints, digest_of

STEPS = 30
MOMENTS = ["RolloutActor.draw", "RewardActor.score", "PolicyActor.update", "PolicyActor.snapshot", "Storage.write"]


def test_a_driver_that_is_killed_at_five_moments_and_resumed(start: Start, reference: Reference) -> None:
    """While a worker draws, scores, trains, gathers a checkpoint and writes one, at steps and in an order from a seed."""
    rng = random.Random(2)
    moments = rng.sample(MOMENTS, len(MOMENTS))
    steps = sorted(rng.sample(range(5, STEPS - 5), len(MOMENTS)))
    settings = {"loop__steps": STEPS, "loop__staleness": 2, "loop__checkpoint_every": 2}
    run = start(**settings)
    for number, (moment, step) in enumerate(zip(moments, steps, strict=True), start=1):
        newest = kill_the_driver(run, moment, step)
        run = run.resume()
        resumed = resumptions(run, number)
        assert resumed[-1] >= newest
    assert digest_of(run) == reference(loop__steps=STEPS, loop__staleness=2)
    assert len(run.events("resumed")) == len(MOMENTS)


def kill_the_driver(run: Run, moment: str, step: int) -> int:
    """Kills the driver while a worker is in this method, after this step; returns the step of the newest checkpoint."""
    run.reach(step)
    run.until(lambda: complete_checkpoints(run.out / "checkpoints"), "a checkpoint")
    worker = run.catch(moment)
    run.kill()
    go_on(worker)
    assert run.folder.read_state()["status"] == "running", "it could not even say that it ends"
    return int(complete_checkpoints(run.out / "checkpoints")[-1].name.removeprefix("step-"))


def resumptions(run: Run, number: int) -> list[int]:
    """From which steps the run was resumed, once that happened so often."""
    run.until(lambda: len(run.events("resumed")) >= number, "resuming")
    return [event["step"] for event in run.events("resumed")]
