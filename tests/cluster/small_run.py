"""A run as small as can be, in a process of its own: `python -m tests.cluster.small_run NAME` joins or starts Ray as all runs do.

With "slowly" behind the name its workers never become ready. It publishes its status, does what it is told, and prints a line for
each thing that happens.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import ray

from cluster.connect import connect
from cluster.executors.on_ray import Executor, PlacementError, PoolSpec, RayExecutor
from tests.cluster.plain_actors import Plain, Rank, RanksWait

SPECS = [
    PoolSpec("reward", Plain, num_cpus=0, min_size=1, max_size=3),
    PoolSpec("large", Plain, num_cpus=1),
    PoolSpec("policy", Rank, size=2, num_cpus=0, gang=True),
]


def status_of(run: str, executor: Executor) -> dict[str, Any]:
    """A status as a driver publishes it."""
    limits = {spec.name: (spec.smallest, spec.max_size, not spec.gang) for spec in SPECS}
    pools = {}
    for name, pool in executor.status().items():
        smallest, largest, elastic = limits[name]
        pools[name] = {
            **{key: getattr(pool, key) for key in ("wanted", "ready", "busy", "restarts", "waiting", "in_flight")},
            "busy_share": 0.5,
            "min": smallest,
            "max": largest,
            "elastic": elastic,
        }
    return {
        "run": run,
        "state": "running",
        "step": 3,
        "steps": 10,
        "policy_version": 3,
        "images_per_s": 12.34,
        "reward_mean": -1.5,
        "seconds": 75.0,
        "quarantined": 0,
        "retries": {"worker_lost": 2},
        "bytes_in_flight": 5_000_000,
        "admission_paused": False,
        "pools": pools,
    }


def drive(run: str, executor: Executor) -> None:
    """Until it is told to stop."""
    while True:
        executor.wait(0.1)
        for command in executor.exchange(status_of(run, executor)):
            print("command", command.kind, command.pool, command.size, flush=True)
            if command.kind == "stop":
                executor.answer(command.id, "the run finishes its step and ends")
                return
            try:
                executor.resize(command.pool, command.size)
                executor.answer(command.id, f"{command.pool} has {command.size} workers now")
            except (ValueError, PlacementError) as error:
                executor.answer(command.id, f"refused: {error}")
        time.sleep(0.05)


if __name__ == "__main__":
    connect(num_cpus=4, object_store_bytes=100_000_000)
    name = sys.argv[1]
    specs = (
        [*SPECS, PoolSpec("slow", RanksWait, size=2, num_cpus=0, gang=True)] if sys.argv[2:] == ["slowly"] else SPECS
    )
    executor = RayExecutor(specs, run=name, say=lambda text: print(text, flush=True))
    try:
        executor.start()
        print("ready", ray.get_runtime_context().gcs_address, flush=True)
        drive(name, executor)
    finally:
        executor.close()
