"""Any worker dies, at any time, its start included, twenty times in one run: it ends with the digest of a run without faults."""

from __future__ import annotations

import random

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of
from tests.support.faults_world import Process, Run, workers

CLASSES = ("PlainRollout", "PlainReward", "PlainPolicy", "Storage")
PAIRS = 10  # of kills; a step is trained between two of them, since workers that never come up rightly end a run
STEPS = 50
UNHURRIED = {"loop__steps": STEPS, "rollout__steps": 20}  # while a storage worker comes back, a run trains on
SEED = 23  # with it the policy and a rollout worker die in their first start


def test_twenty_workers_are_killed_at_random(start: Start, reference: Reference) -> None:
    rng = random.Random(SEED)
    run = start(**UNHURRIED, loop__checkpoint_every=2)
    killed: list[int] = []
    for pair in range(PAIRS):
        if pair:
            run.reach(run.steps() + 1)
        for _ in range(2):
            killed.append(kill_one(run, rng.choice(CLASSES), killed, rng))
    assert run.steps() < STEPS, "the last one was killed in the middle of the run"
    assert digest_of(run) == reference(**UNHURRIED)
    assert len(set(killed)) == 2 * PAIRS


def kill_one(run: Run, title: str, killed: list[int], rng: random.Random) -> int:
    """Ends a worker of the class (SIGKILL), whatever it does, once there is one that was not killed yet; its process id."""

    def alive() -> list[Process]:
        return [worker for worker in workers(title) if worker.pid not in killed]

    victim = rng.choice(run.until(alive, f"a living {title}"))
    victim.kill()
    return victim.pid
