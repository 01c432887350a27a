"""How busy the loop keeps its workers, and what the driver costs: everything is real except stages that only sleep.

    python -m bench.loop [--quick] [--virtual] [--out DIR]

"of bound" is the busy share of the pool that limits the run, in the steady part of the run: the time that its tasks
were told to take, over the time that its workers were there. At 1.0 no other order and no other program is faster.
Noise "x3" is a jitter of 10 % on every task, and 1 % of the draws and scores take three times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import track

from actors.messages import Prompt
from bench.loop_tables import driver_table, utilisation_table
from cluster.connect import connect
from cluster.executors.on_ray import RayExecutor
from cluster.executors.virtual import VirtualExecutor
from cluster.tasks import Executor, Outcome, PoolSpec
from pipelines.data.prompts import PromptList, PromptOrder
from pipelines.monitoring.terminal import Display
from pipelines.monitoring.watchers import Watchers
from pipelines.planning.stages import SleepingPolicy, SleepingReward, SleepingRollout, SleepingStorage
from pipelines.recipe.load import dump_recipe, parse_recipe
from pipelines.recipe.training import Recipe
from pipelines.run_folder.folder import RunFolder
from pipelines.training.heldout_plan import HeldoutPlan
from pipelines.training.work import driver_of

CHUNK = 2  # images per score
SHORT = 0.4  # what the stages that do not limit a run take, relative to the one that does
LIMITS = ("balanced", "rollout", "reward", "policy")


@dataclass(frozen=True)
class Scenario:
    """A run. `limit`: the stage that dominates. A step has `tasks_per_worker` tasks of `task_seconds` for each worker.

    together: whole groups that are drawn as one batch, which then takes so many times as long; 1: groups are drawn in two chunks.
    """

    staleness: int
    order: str = "strict"
    limit: str = "balanced"
    rollouts: int = 4
    rewards: int = 4
    straggling: float = 3.0  # how much longer a straggler takes; 0: no noise at all
    tasks_per_worker: int = 3
    task_seconds: float = 0.2
    payload_bytes: int = 1_000_000
    steps: int = 20
    together: int = 1
    suits: tuple[int, int] | None = None  # rollout and reward workers that all this is said of, if not the run's own

    @property
    def suited(self) -> tuple[int, int]:
        return self.suits or (self.rollouts, self.rewards)

    @property
    def chunks_per_group(self) -> int:
        return 2 if self.together == 1 else 1

    @property
    def groups_per_step(self) -> int:
        tasks = self.tasks_per_worker * max(self.suited)
        return -(-tasks // self.chunks_per_group) * self.together

    @property
    def images_per_step(self) -> int:
        return self.groups_per_step * self.chunks_per_group * CHUNK


def pools(scenario: Scenario) -> list[PoolSpec]:
    """Pools whose capacities are in the scenario's ratio: the time of a stage is what its pool needs for a step."""
    step_seconds = scenario.tasks_per_worker * scenario.task_seconds
    chunks = scenario.groups_per_step * scenario.chunks_per_group
    draws = -(-chunks // scenario.together)
    rollouts, rewards = scenario.suited
    share = {stage: 1.0 if scenario.limit in (stage, "balanced") else SHORT for stage in LIMITS}
    noise = {"jitter": 0.1, "straggling": scenario.straggling} if scenario.straggling else {}
    draw = {"seconds": share["rollout"] * step_seconds * rollouts / draws, **noise}
    score = {"seconds": share["reward"] * step_seconds * rewards / chunks, **noise, "images": CHUNK}
    update = {"seconds": share["policy"] * step_seconds, **noise, "straggling": 1.0}
    draw["payload_bytes"] = scenario.payload_bytes
    return [
        PoolSpec("rollout", SleepingRollout, draw, scenario.rollouts, num_cpus=0),
        PoolSpec("reward", SleepingReward, score, scenario.rewards, num_cpus=0),
        PoolSpec("policy", SleepingPolicy, update, gang=True, num_cpus=0),
        PoolSpec("storage", SleepingStorage, {"seconds": 0.0}, num_cpus=0),
    ]


def recipe_of(scenario: Scenario) -> Recipe:
    """A recipe with the scenario's sizes; its models are never loaded."""
    return parse_recipe(
        {
            "loop": {
                "steps": scenario.steps,
                "staleness": scenario.staleness,
                "order": scenario.order,
                "checkpoint_every": scenario.steps,
            },
            "data": {"train": "none"},
            "rollout": {
                "group_size": scenario.chunks_per_group * CHUNK,
                "chunk": CHUNK,
                "groups_per_task": scenario.together,
                "prompts_per_step": scenario.groups_per_step,
                "size": scenario.rollouts,
            },
            "reward": {"model": "none", "size": scenario.rewards},
            "policy": {"model": "none"},
        },
        "bench",
    )


class Meter:
    """Executor that passes everything on, and notes what outcomes say and what they cost the driver.

    The cost is the CPU time of the driver's thread, so that other programs on the machine do not count: its own code, and
    the calls into Ray on both sides of the wait.
    """

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._counted = time.thread_time()
        self._last: list[Outcome] = []
        self.busy: list[tuple[float, str, float]] = []  # (end, pool, seconds told to take)
        self.step_ends: list[float] = []
        self.group_seconds: dict[tuple[int, int], float] = {}
        self.update_seconds: dict[int, float] = {}
        self.memory_mb: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """As the executor's."""
        self._charge(self._last)
        self._last = self._executor.wait(timeout_s)
        self._charge(self._last)
        now = self._clock()
        for outcome in self._last:
            self._note(now, outcome)
        return self._last

    def _charge(self, outcomes: list[Outcome]) -> None:
        """Share the time since the last call among the groups that these outcomes are about."""
        used, self._counted = time.thread_time() - self._counted, time.thread_time()
        share = used / max(1, len(outcomes))
        for outcome in outcomes:
            method, what = outcome.key.method, outcome.key.about
            if method in ("draw", "score"):
                for unit in what:
                    group = (unit.step, unit.group)
                    self.group_seconds[group] = self.group_seconds.get(group, 0.0) + share / len(what)
            elif method in ("update", "export"):
                self.update_seconds[what] = self.update_seconds.get(what, 0.0) + share

    def _note(self, now: float, outcome: Outcome) -> None:
        if outcome.failure:
            raise RuntimeError(outcome.failure.message)
        match outcome.key.method:
            case "draw":
                self.busy.append((now, "rollout", outcome.value[0].seconds))
            case "score":
                self.busy.append((now, "reward", outcome.value.seconds))
            case "update":
                self.busy.append((now, "policy", outcome.value["seconds"]))
            case "export" if outcome.key.about:  # version 0 ends no step
                self.step_ends.append(now)
                self.memory_mb.append(resident_mb())


def measure(scenario: Scenario, virtual: bool) -> dict[str, Any]:
    """Run a scenario; its row."""
    specs = pools(scenario)
    executor: Executor = VirtualExecutor(specs) if virtual else RayExecutor(specs, run=f"bench-{time.time_ns()}")
    meter = Meter(executor, clock=(lambda: executor.now) if isinstance(executor, VirtualExecutor) else time.monotonic)
    recipe = recipe_of(scenario)
    prompts = PromptList(Prompt(f"p{i}", f"prompt {i}") for i in range(1000))
    order = PromptOrder(prompts, seed=0, prompts_per_step=scenario.groups_per_step, mix={})
    with TemporaryDirectory() as folder:
        try:
            executor.start()
            cpu_began, began = time.process_time(), time.perf_counter()
            run = RunFolder.create(Path(folder) / "run", dump_recipe(recipe))
            watchers = Watchers(Display(scenario.steps, "bench", Console(quiet=True)))
            heldout = HeldoutPlan((), recipe.heldout, scenario.steps)
            driver_of(recipe, order, heldout, meter, run, watchers, f"{folder}/checkpoints").run(None)
            cpu, seconds = time.process_time() - cpu_began, time.perf_counter() - began
        finally:
            executor.close()
    num_groups = scenario.steps * scenario.groups_per_step
    return {
        **asdict(scenario),
        "virtual": virtual,
        **utilisation(scenario, meter),
        **driver_cost(scenario, meter),
        "cpu_ms_per_group": 1e3 * cpu / num_groups,
        "groups": num_groups,
        "wall_seconds": seconds,
    }


def utilisation(scenario: Scenario, meter: Meter) -> dict[str, Any]:
    """Busy shares and throughput without the steps that fill the pipeline and those that drain it."""
    first, last = scenario.staleness + 2, scenario.steps - scenario.staleness - 2
    begin, end = meter.step_ends[first], meter.step_ends[last]
    workers = {"rollout": scenario.rollouts, "reward": scenario.rewards, "policy": 1}
    busy = dict.fromkeys(workers, 0.0)
    for when, pool, seconds in meter.busy:
        in_window = min(when, end) - max(when - seconds, begin)
        busy[pool] += max(0.0, in_window) / (workers[pool] * (end - begin))
    images_per_s = (last - first) * scenario.images_per_step / (end - begin)
    of_bound = max(busy.values())
    return {"busy": busy, "of_bound": of_bound, "images_per_s": images_per_s, "bound": images_per_s / of_bound}


def driver_cost(scenario: Scenario, meter: Meter) -> dict[str, Any]:
    """CPU milliseconds of the driver per group (its draws, its scores, its share of the update), and memory."""
    per_group_ms = [
        1e3 * (seconds + meter.update_seconds.get(step, 0.0) / scenario.groups_per_step)
        for (step, _), seconds in meter.group_seconds.items()
        if step > 1  # in the first step Ray makes its connections
    ]
    centiles = quantiles(per_group_ms, n=100)
    fifth = len(meter.memory_mb) // 5
    return {
        "driver_ms_p50": centiles[49],
        "driver_ms_p99": centiles[98],
        "memory_mb_early": meter.memory_mb[fifth],
        "memory_mb_end": meter.memory_mb[-1],
    }


def resident_mb() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def ray_scenarios(quick: bool) -> Iterator[Scenario]:
    """Real processes: a part of the grid, since each run takes its time."""
    if quick:
        yield Scenario(staleness=2, steps=12)
        yield Scenario(staleness=1, limit="rollout", steps=12)
        return
    for straggling, staleness, order in product((0.0, 3.0), (0, 1, 2, 4), ("strict", "ready")):
        yield Scenario(staleness, order, straggling=straggling)
    for order in ("strict", "ready"):
        yield Scenario(2, order, straggling=5.0)
    for limit, staleness in product(("rollout", "reward", "policy"), (0, 1)):
        yield Scenario(staleness, limit=limit)
    for rollouts, rewards in ((2, 2), (8, 8), (8, 2)):
        yield Scenario(2, rollouts=rollouts, rewards=rewards)


def virtual_scenarios(quick: bool) -> Iterator[Scenario]:
    """Virtual time: more of the grid, and long enough that chance does not show."""
    base = Scenario(0, steps=30 if quick else 100, payload_bytes=0)
    sizes = ((4, 4),) if quick else ((4, 4), (8, 2), (32, 32))
    for (rollouts, rewards), straggling, staleness, order in product(
        sizes, (0.0, 3.0, 5.0), (0, 1, 2, 4), ("strict", "ready")
    ):
        yield replace(base, staleness=staleness, order=order, rollouts=rollouts, rewards=rewards, straggling=straggling)
    for together, staleness, order in product((2, 4), (0, 1, 2), ("strict", "ready")):
        yield replace(base, staleness=staleness, order=order, together=together)
    for limit, staleness, order in product(("rollout", "reward", "policy"), (0, 1, 2), ("strict", "ready")):
        yield replace(base, staleness=staleness, order=order, limit=limit)


def long_scenarios(quick: bool) -> list[Scenario]:
    """10,000 groups, on few and on thousands of workers: what the driver costs, and whether its memory is flat."""
    few = Scenario(2, rollouts=32, rewards=32, steps=208, payload_bytes=64_000)  # 48 groups a step
    many = Scenario(2, rollouts=2000, rewards=2000, steps=12, tasks_per_worker=1)  # 1,000 groups a step
    shorter = [replace(few, steps=40)]
    return shorter if quick else [few, replace(few, order="ready"), replace(many, payload_bytes=64_000)]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few short runs, to see that it works")
    parser.add_argument("--virtual", action="store_true", help="only the runs in virtual time, without Ray")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for loop.json (runs/bench)")
    options = parser.parse_args(arguments)
    console = Console()
    long = [measure(it, virtual=True) for it in track(long_scenarios(options.quick), "the driver alone")]
    planned = [measure(it, virtual=True) for it in track(list(virtual_scenarios(options.quick)), "virtual time")]
    real = []
    if not options.virtual:
        connect(object_store_bytes=500_000_000)
        real = [measure(it, virtual=False) for it in track(list(ray_scenarios(options.quick)), "on Ray")]
    for rows, title in ((planned, "In virtual time"), (real, "On Ray")):
        if rows:
            console.print(utilisation_table(title, rows))
    console.print(driver_table([*long, *(row for row in real if row["limit"] == "balanced" and row["staleness"] == 2)]))
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    results = {"machine": machine, "quick": options.quick, "ray": real, "virtual": planned, "driver": long}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loop.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {options.out / 'loop.json'}")


if __name__ == "__main__":
    main()
