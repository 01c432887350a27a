"""The loop under a random world: virtual time, random durations, failures and pool sizes, always seeded."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import pytest

from pipelines.engine.loop import Loop
from pipelines.engine.messages import (
    Abort,
    Ask,
    Done,
    Failed,
    GroupKey,
    LoopPlan,
    Quarantined,
    Released,
    Settled,
    Spared,
    Stages,
    Steps,
    Sweeps,
    Swept,
    Train,
    Trained,
    Unit,
)

CHUNK_BYTES = 100
ROLLOUT, REWARD = "rollout", "reward"
TWO_STAGES: Stages = ((ROLLOUT,), (REWARD,))


@dataclass(frozen=True)
class Plan:
    """A run with a stream of steps and one of sweeps, both of the same stages; steps 0: of sweeps alone."""

    steps: int
    groups_per_step: int
    chunks_per_group: int = 1
    groups_per_task: int = 1
    staleness: int = 0
    order: Literal["strict", "ready"] = "strict"
    retries: int = 2
    lost_retries: int = 10
    max_failures_in_row: int = 8
    max_groups_in_flight: int | None = None
    max_bytes_in_flight: int | None = None
    first_version: int = 0
    evaluations: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    heldout_chunks_per_group: int = 1
    heldout_batched: int = 1
    heldout_spared: frozenset[str] = frozenset()
    stages: Stages = TWO_STAGES

    def for_loop(self) -> LoopPlan:
        steps = Steps(
            self.stages,
            self.steps,
            self.groups_per_step,
            self.chunks_per_group,
            self.groups_per_task,
            self.staleness,
            self.order,
        )
        sweeps = Sweeps(
            self.stages, self.evaluations, self.heldout_chunks_per_group, self.heldout_batched, self.heldout_spared
        )
        return LoopPlan(
            {"train": steps, "heldout": sweeps} if self.steps else {"heldout": sweeps},
            self.retries,
            self.lost_retries,
            self.max_failures_in_row,
            self.max_groups_in_flight,
            self.max_bytes_in_flight,
            self.first_version,
        )


def loop_of(**plan: object) -> Loop:
    return Loop(Plan(**plan).for_loop())


@dataclass(frozen=True)
class World:
    """What the random world does to a run. Chances are per task.

    `poison` groups raise whenever the last pool gets them, `undrawable` ones take down whatever batch they are in at the first stage.
    """

    seed: int = 0
    rollouts: int = 3  # workers of each pool of the first stage
    rewards: int = 2  # and of each other pool
    jitter: float = 1.0
    raises: float = 0.0
    worker_lost: float = 0.0
    object_lost: float = 0.0
    poison: frozenset[GroupKey] = frozenset()
    undrawable: frozenset[GroupKey] = frozenset()


class Simulation:
    """Carries out the loop's decisions in virtual time and keeps what happened. A deadlock is an error."""

    def __init__(self, plan: Plan, world: World) -> None:
        self.plan, self.world = plan, world
        self.loop = Loop(plan.for_loop())
        self.random = random.Random(world.seed)
        self.now = 0.0
        self.under_way: list[tuple[float, int, str, str, tuple]] = []  # (when, tie, pool, worker, events)
        self.stage_of = {pool: number for number, stage in enumerate(plan.stages) for pool in stage}
        self.idle = {
            pool: [f"{pool}-{i}" for i in range(world.rewards if number else world.rollouts)]
            for pool, number in self.stage_of.items()
        }
        self.passed: dict[Unit, set[str]] = {}  # the pools that have returned a unit since it began, or began again
        self.with_pools: set[tuple[Unit, str]] = set()
        self.lost: set[Unit] = set()  # units of which a payload is lost
        self.trains: list[Train] = []
        self.draws: list[Ask] = []
        self.evaluated: list[int] = []
        self.quarantined: list[Quarantined] = []
        self.spared: set[tuple[Unit, str]] = set()
        self.settled: Counter[GroupKey] = Counter()
        self.released: Counter[GroupKey] = Counter()
        self.aborted: str | None = None
        self.opened: set[GroupKey] = set()
        self.held: dict[Unit, int] = {}  # payload bytes, by unit, until its group is released
        self.peak_bytes = 0

    def run(self) -> Simulation:
        self._obey()
        while not self.loop.done and self.aborted is None:
            assert self.under_way, f"deadlock: {self.loop.progress()}"
            self.now, _, pool, worker, event = heapq.heappop(self.under_way)
            if worker:
                self.idle[pool].append(worker)
            for each in event:
                if isinstance(each, Done | Failed):
                    self._came_back(each)
                self.loop.handle(each)
            self._obey()
        return self

    def _obey(self) -> None:
        for decision in self.loop.decide({pool: len(workers) for pool, workers in self.idle.items()}):
            match decision:
                case Ask():
                    self._ask(decision)
                case Train(step):
                    self.trains.append(decision)
                    self._schedule(1.0, "policy", "", [Trained(step)])
                case Swept(version=version):
                    self.evaluated.append(version)
                case Quarantined():
                    self.quarantined.append(decision)
                case Spared(unit, pool):
                    self.spared.add((unit, pool))
                    self.passed[unit].add(pool)
                case Settled(key):
                    self.settled[key] += 1
                case Released(key):
                    self.released[key] += 1
                    self.held = {unit: size for unit, size in self.held.items() if unit.key != key}
                case Abort(reason):
                    self.aborted = reason
        self.peak_bytes = max(self.peak_bytes, sum(self.held.values()))

    def _ask(self, ask: Ask) -> None:
        pool, stage = ask.pool, self.stage_of[ask.pool]
        assert ask.version <= self.loop.version, "made by a version that does not exist"
        assert ask.wanted
        assert set(ask.wanted) <= set(ask.batch)
        for unit in ask.wanted:
            assert (unit, pool) not in self.with_pools, "asked twice at once"
            if stage == 0 and pool in self.passed.get(unit, ()):
                assert unit in self.lost, "made again though nothing was lost"
                assert not [where for each, where in self.with_pools if each == unit], "made again too early"
                self.passed[unit].clear()
                self.lost.discard(unit)
            before = {each for each, number in self.stage_of.items() if number < stage}
            assert before <= self.passed.setdefault(unit, set()), "asked before the stages before it had returned"
            assert pool not in self.passed[unit], "asked again for what it has done"
            self.with_pools.add((unit, pool))
        if stage == 0:
            self.draws.append(ask)
            self.opened |= {unit.key for unit in ask.wanted}
        elif ask.unit.stream == "train" or stage >= self.plan.heldout_batched:
            assert ask.batch == ask.wanted == (ask.unit,), "at this stage no units are a batch"
        faulty = self.world.undrawable if stage == 0 else self.world.poison if pool == self.plan.stages[-1][-1] else ()
        poisoned = any(unit.key in faulty for unit in ask.batch)
        num_bytes = 0 if stage else CHUNK_BYTES
        self._begin(pool, ask.avoid, [Done(unit, pool, num_bytes) for unit in ask.wanted], poisoned)

    def _came_back(self, event: Done | Failed) -> None:
        unit = event.unit
        self.with_pools.remove((unit, event.pool))
        if isinstance(event, Done):
            self.passed[unit].add(event.pool)
            if event.num_bytes:
                self.held[unit] = self.held.get(unit, 0) + event.num_bytes
        elif event.cause == "object_lost" and self.stage_of[event.pool]:
            self.lost.add(unit)
            self.held.pop(unit, None)

    def _begin(self, pool: str, avoid: frozenset[str], success: Sequence[Done], poisoned: bool) -> None:
        world = self.world
        workers = self.idle[pool]
        others = [worker for worker in workers if worker not in avoid]
        worker = self.random.choice(others or workers)
        workers.remove(worker)
        chances = [world.raises, world.worker_lost, world.object_lost]
        cause = self.random.choices(["raised", "worker_lost", "object_lost", None], [*chances, 1 - sum(chances)])[0]
        if poisoned:
            cause = "raised"
        failed = [Failed(event.unit, pool, worker, cause, f"{cause} by chance") for event in success] if cause else []
        self._schedule(1.0, pool, worker, failed or success)

    def _schedule(self, seconds: float, pool: str, worker: str, events: Sequence[object]) -> None:
        when = self.now + seconds * self.random.uniform(1, 1 + 10 * self.world.jitter)
        heapq.heappush(self.under_way, (when, self.random.getrandbits(60), pool, worker, tuple(events)))


def random_world(seed: int, **changes: object) -> World:
    rng = random.Random(seed)
    world = World(seed, rng.choice([1, 2, 3, 7, 20]), rng.choice([1, 2, 3, 7, 20]), rng.choice([0, 0.1, 1.0]))
    return replace(world, **changes)


def random_plan(seed: int, order: str, **changes: object) -> Plan:
    rng = random.Random(1000 + seed)
    plan = Plan(
        steps=rng.randint(1, 9),
        groups_per_step=rng.randint(1, 6),
        chunks_per_group=rng.randint(1, 3),
        staleness=rng.choice([0, 1, 2, 4]),
        order=order,
        retries=50,
        max_failures_in_row=1000,
        max_groups_in_flight=rng.choice([None, None, 1, 3, 8]),
        max_bytes_in_flight=rng.choice([None, None, 1, 4 * CHUNK_BYTES, 20 * CHUNK_BYTES]),
        evaluations=rng.choice([{}, {0: (1, 1, 1)}, {0: (2,), 1: (1, 3, 1)}, {0: (), 1: (1,)}]),
        heldout_chunks_per_group=rng.randint(1, 2),
        groups_per_task=rng.choice([1, 1, 2, 3, 6]),
    )
    return replace(plan, **changes)


def random_poison(plan: Plan, seed: int) -> frozenset[GroupKey]:
    rng = random.Random(seed)
    keys = [GroupKey("train", step + 1, group) for step in range(plan.steps) for group in range(plan.groups_per_step)]
    keys += [
        GroupKey("heldout", version, group)
        for version, sizes in plan.evaluations.items()
        for group in range(sum(sizes))
    ]
    return frozenset(key for key in keys if rng.random() < 0.2)


FAILING = {"raises": 0.1, "worker_lost": 0.1, "object_lost": 0.1}


def planned(plan: Plan, poison: frozenset[GroupKey] = frozenset()) -> list[Train]:
    """What strict order must train, written down without a loop."""
    trains = []
    for step in range(1, plan.steps + 1):
        keys = [GroupKey("train", step, group) for group in range(plan.groups_per_step)]
        keys = [key for key in keys if key not in poison]
        trains.append(Train(step, tuple(keys), (max(0, step - 1 - plan.staleness),) * len(keys)))
    return trains


def check_end(run: Simulation) -> None:
    """What holds at the end of every run."""
    progress = run.loop.progress()
    assert run.aborted is None
    assert [train.step for train in run.trains] == list(range(1, run.plan.steps + 1))
    assert sorted(run.evaluated) == sorted(version for version in run.plan.evaluations if version <= run.plan.steps)
    trained = {key for train in run.trains for key in train.groups}
    given_up = {it.key for it in run.quarantined}
    assert not trained & given_up
    # the last chunks of a quarantined group may still be under way when the run is over
    assert all(run.released[key] == 1 for key in run.opened - given_up)
    assert all(num == 1 for num in run.released.values())
    assert run.settled == Counter(run.opened - given_up)
    assert set(run.released) <= run.opened
    if not given_up:
        assert (progress.groups_in_flight, progress.bytes_in_flight, run.held) == (0, 0, {})
    assert set(progress.waiting.values()) == {0}


@pytest.mark.parametrize("seed", range(150))
def test_strict_order_trains_what_is_planned_whatever_the_timing_and_the_faults(seed: int) -> None:
    plan = random_plan(seed, "strict")
    run = Simulation(plan, random_world(seed, **(FAILING if seed % 2 else {}))).run()
    check_end(run)
    assert run.trains == planned(plan)
    for draw in run.draws:
        unit = draw.batch[0]
        assert draw.version == (unit.step if unit.stream == "heldout" else max(0, unit.step - 1 - plan.staleness))


def run_that_leaves_out(fault: Literal["poison", "undrawable"], plan: Plan, seed: int) -> Simulation:
    """A run in a world in which some groups have this fault: these alone are quarantined, and all others trained."""
    faulty = random_poison(plan, seed)
    run = Simulation(plan, random_world(seed, **{fault: faulty})).run()
    check_end(run)
    assert run.trains == planned(plan, faulty)
    assert {it.key for it in run.quarantined} == faulty & run.opened
    return run


@pytest.mark.parametrize("seed", range(50))
def test_strict_order_leaves_out_exactly_the_groups_that_always_fail(seed: int) -> None:
    plan = random_plan(seed, "strict", retries=2)
    run = run_that_leaves_out("poison", plan, seed)
    assert all(it.tries == 3 for it in run.quarantined)


@pytest.mark.parametrize("seed", range(60))
def test_which_groups_share_a_draw_is_decided_by_the_plan_alone(seed: int) -> None:
    plan = random_plan(seed, "strict", chunks_per_group=1, groups_per_task=1 + seed % 4)
    run = Simulation(plan, random_world(seed, **FAILING)).run()
    check_end(run)
    size = plan.groups_per_task
    for draw in run.draws:
        if draw.batch[0].stream == "train":
            first, last = draw.batch[0].group, min(draw.batch[0].group + size, plan.groups_per_step)
            assert first % size == 0
            assert [(unit.step, unit.group) for unit in draw.batch] == [
                (draw.batch[0].step, group) for group in range(first, last)
            ]


@pytest.mark.parametrize("seed", range(60))
def test_of_a_batch_that_always_fails_only_the_group_to_blame_is_left_out(seed: int) -> None:
    one_chunk = {"chunks_per_group": 1, "heldout_chunks_per_group": 1}
    plan = random_plan(seed, "strict", retries=2, groups_per_task=1 + seed % 4, **one_chunk)
    run_that_leaves_out("undrawable", plan, seed)


@pytest.mark.parametrize("seed", range(200))
def test_ready_order_keeps_the_bound_and_drops_nothing(seed: int) -> None:
    plan = random_plan(seed, "ready", retries=50 if seed % 2 else 1)
    world = random_world(seed, **(FAILING if seed % 3 else {}))
    if seed % 2 == 0:
        world = replace(world, poison=random_poison(plan, seed))
    run = Simulation(plan, world).run()
    check_end(run)
    trained = [key for train in run.trains for key in train.groups]
    given_up = [it.key for it in run.quarantined if it.key.stream == "train"]
    stream = [GroupKey("train", step + 1, group) for step in range(plan.steps) for group in range(plan.groups_per_step)]
    assert sorted(trained + given_up, key=lambda key: (key.step, key.group)) == stream
    versions = {unit.key: set() for draw in run.draws for unit in draw.batch}
    for draw in run.draws:
        for unit in draw.batch:
            versions[unit.key].add(draw.version)
    for train in run.trains:
        assert list(train.groups) == sorted(train.groups, key=lambda key: (key.step, key.group))
        for key, version in zip(train.groups, train.versions, strict=True):
            assert versions[key] == {version}, "all chunks of a group come from one version"
            assert train.step - 1 - plan.staleness <= version <= train.step - 1
    if not given_up:
        assert all(len(train.groups) == plan.groups_per_step for train in run.trains)


@pytest.mark.parametrize("seed", range(40))
def test_ready_order_without_staleness_is_strict_order(seed: int) -> None:
    plan = random_plan(seed, "ready", staleness=0)
    assert Simulation(plan, random_world(seed)).run().trains == planned(plan)


@pytest.mark.parametrize("seed", range(40))
def test_a_resumed_run_trains_what_the_whole_run_would_have_trained(seed: int) -> None:
    # the evaluation of version 0 is recorded already, that of 2 is not
    plan = random_plan(seed, "strict", evaluations={2: (1, 1), 4: (1,)})
    plan = replace(plan, first_version=min(plan.steps, 3))
    run = Simulation(plan, random_world(seed, **FAILING)).run()
    assert run.trains == planned(plan)[plan.first_version :]
    assert sorted(run.evaluated) == [version for version in plan.evaluations if version <= plan.steps]


@pytest.mark.parametrize("seed", range(40))
def test_a_resumed_run_in_ready_order_keeps_the_bound(seed: int) -> None:
    plan = random_plan(seed, "ready", first_version=1, steps=6)
    run = Simulation(plan, random_world(seed)).run()
    stream = [GroupKey("train", step + 1, group) for step in range(1, 6) for group in range(plan.groups_per_step)]
    assert (
        sorted((key for train in run.trains for key in train.groups), key=lambda key: (key.step, key.group)) == stream
    )
    for train in run.trains:
        assert all(train.step - 1 - plan.staleness <= version < train.step for version in train.versions)


@pytest.mark.parametrize("seed", range(40))
def test_evaluation_does_not_change_what_is_trained(seed: int) -> None:
    plan = random_plan(seed, "strict", evaluations={0: (2, 2), 1: (4,), 2: (1, 1, 2)})
    run = Simulation(plan, random_world(seed)).run()
    assert run.trains == Simulation(replace(plan, evaluations={}), random_world(seed)).run().trains
    assert run.evaluated == [0, 1, 2][: plan.steps + 1]


@pytest.mark.parametrize("seed", range(60))
def test_bytes_held_exceed_the_limit_by_no_more_than_one_step(seed: int) -> None:
    plan = random_plan(seed, ("strict", "ready")[seed % 2], max_bytes_in_flight=4 * CHUNK_BYTES, staleness=4)
    world = random_world(seed)
    run = Simulation(plan, world).run()
    check_end(run)
    step_bytes = plan.groups_per_step * plan.chunks_per_group * CHUNK_BYTES
    first_draws = (
        world.rollouts * plan.groups_per_task * CHUNK_BYTES
    )  # the size of a chunk is not known before the first one was drawn
    assert run.peak_bytes <= max(4 * CHUNK_BYTES, step_bytes) + max(step_bytes, first_draws)


STAGES: list[Stages] = [
    ((ROLLOUT,),),
    ((ROLLOUT,), ("clip", "echo")),
    (("clip", "echo", "size"),),
    (("writer",), ("checker",), (ROLLOUT,), (REWARD, "judge")),
]


@pytest.mark.parametrize("seed", range(80))
def test_any_stages_side_by_side_ones_too_train_what_is_planned(seed: int) -> None:
    plan = random_plan(seed, "strict", stages=STAGES[seed % len(STAGES)], lost_retries=1000)
    run = Simulation(plan, random_world(seed, **(FAILING if seed % 8 > 3 else {}))).run()
    check_end(run)
    assert run.trains == planned(plan)
    assert not run.quarantined


@pytest.mark.parametrize("seed", range(80))
def test_at_any_stages_exactly_the_groups_that_always_fail_are_left_out(seed: int) -> None:
    one_chunk = {"chunks_per_group": 1, "heldout_chunks_per_group": 1}
    plan = random_plan(seed, "strict", retries=2, stages=STAGES[seed % len(STAGES)], **one_chunk)
    run_that_leaves_out("undrawable" if seed % 8 > 3 or len(plan.stages) == 1 else "poison", plan, seed)


@pytest.mark.parametrize("seed", range(80))
def test_a_stream_without_updates_does_all_its_groups_whatever_fails(seed: int) -> None:
    rng = random.Random(seed)
    tasks = tuple(rng.randint(1, 3) for _ in range(rng.randint(1, 40)))
    stages = STAGES[seed % len(STAGES)]
    plan = random_plan(seed, "strict", steps=0, evaluations={0: tasks}, stages=stages, lost_retries=1000)
    if plan.heldout_chunks_per_group == 1:
        plan = replace(plan, heldout_batched=rng.randint(1, len(stages)))
    run = Simulation(plan, random_world(seed, **(FAILING if seed % 2 else {}))).run()
    check_end(run)
    assert run.trains == []
    assert set(run.settled) == {GroupKey("heldout", 0, group) for group in range(sum(tasks))}
    assert run.evaluated == [0]
    if plan.max_groups_in_flight:
        assert max(len(draw.batch) for draw in run.draws) <= max(plan.max_groups_in_flight, max(tasks))


@pytest.mark.parametrize("seed", range(40))
def test_of_a_batch_at_any_stage_the_groups_that_always_fail_are_left_out_alone(seed: int) -> None:
    tasks = (3, 1, 4, 2)
    changes = {"evaluations": {0: tasks}, "heldout_chunks_per_group": 1, "heldout_batched": 2, "retries": 1}
    plan = random_plan(seed, "strict", steps=0, max_groups_in_flight=None, max_bytes_in_flight=None, **changes)
    asked: list[Ask] = []

    class Watched(Simulation):
        def _ask(self, ask: Ask) -> None:
            asked.append(ask)
            super()._ask(ask)

    faulty = random_poison(plan, seed)
    run = Watched(plan, random_world(seed, poison=faulty)).run()
    check_end(run)
    assert {it.key for it in run.quarantined} == faulty
    together = [len(ask.wanted) for ask in asked if ask.pool == REWARD and len(ask.batch) > 1]
    assert sorted(together)[-3:] == [2, 3, 4] if not faulty else max(together) == 4


@pytest.mark.parametrize("seed", range(40))
def test_a_unit_goes_on_without_a_pool_that_is_spared_and_the_others_do_their_part(seed: int) -> None:
    stages = ((ROLLOUT,), ("checker", REWARD), ("last",))
    plan = random_plan(
        seed, "strict", steps=0, evaluations={0: (3, 1, 4, 2)}, heldout_chunks_per_group=1, retries=1, stages=stages,
        heldout_batched=1 + seed % 3, heldout_spared=frozenset({"checker", "last"}), lost_retries=1000,
    )  # fmt: skip
    faulty = random_poison(plan, seed)
    run = Simulation(plan, random_world(seed, poison=faulty, object_lost=0.2 if seed % 2 else 0.0)).run()
    check_end(run)
    assert not run.quarantined
    assert set(run.settled) == {GroupKey("heldout", 0, group) for group in range(10)}
    assert {(unit.key, pool) for unit, pool in run.spared} == {(key, "last") for key in faulty}


def test_what_one_pool_failed_is_not_held_against_another_beside_it() -> None:
    loop = loop_of(
        steps=0, groups_per_step=1, evaluations={0: (1,)}, retries=1, stages=((ROLLOUT,), ("one", "other")),
        heldout_spared=frozenset({"one", "other"}),
    )  # fmt: skip
    [draw] = loop.decide({ROLLOUT: 1})
    loop.handle(Done(draw.unit, ROLLOUT))
    for pool in ("one", "other"):
        assert loop.decide({pool: 1}) == [Ask(pool, draw.batch, draw.wanted, 0)]
        loop.handle(Failed(draw.unit, pool, f"{pool}-0", "raised", "by chance"))
    assert {decision.pool for decision in loop.decide({"one": 1, "other": 1})} == {"one", "other"}


@pytest.mark.parametrize("seed", range(40))
def test_several_sweeps_of_stages_of_their_own_run_beside_the_steps(seed: int) -> None:
    """A stream may leave out pools that another has."""
    plan = random_plan(seed, "strict", evaluations={0: (1, 2), 1: (2,)})
    both = plan.for_loop()
    checked = replace(both.streams["heldout"], stages=((ROLLOUT,), ("checker",)))
    loop = Loop(replace(both, streams={**both.streams, "checked": checked}))
    asked: Counter[tuple[str, str]] = Counter()
    swept: list[tuple[str, int]] = []
    while not loop.done:
        for decision in loop.decide(dict.fromkeys(loop.pools, 2)):
            match decision:
                case Ask(pool, _, wanted):
                    asked[decision.unit.stream, pool] += len(wanted)
                    for unit in wanted:
                        loop.handle(Done(unit, pool))
                case Train(step):
                    loop.handle(Trained(step))
                case Swept(stream, version):
                    swept.append((stream, version))
    assert sorted(swept) == [(stream, version) for stream in ("checked", "heldout") for version in (0, 1)]
    assert asked["checked", "checker"] == asked["checked", ROLLOUT] == asked["heldout", REWARD]
    assert asked["checked", REWARD] == asked["train", "checker"] == 0
    assert asked["train", REWARD] == plan.steps * plan.groups_per_step * plan.chunks_per_group


def test_a_stream_of_steps_without_stages_is_due_at_once() -> None:
    loop = Loop(LoopPlan({"train": Steps((), steps=2, groups_per_step=0, staleness=1)}))
    assert loop.decide({}) == [Train(1, (), ())]
    loop.handle(Trained(1))
    assert loop.oldest_version_needed() == 0, "a version before it may yet be asked for by who comes later"
    assert loop.decide({}) == [Train(2, (), ())]
    loop.handle(Trained(2))
    assert loop.done


# ---- single situations ----------------------------------------------------------------------------------------------

MANY = {ROLLOUT: 100, REWARD: 100}
LOST = "worker_lost"


def train_units(step: int, groups: int, chunks: int = 1) -> list[Unit]:
    return [Unit("train", step, group, chunk) for group in range(groups) for chunk in range(chunks)]


def of_kind(decisions: list, kind: type) -> list:
    return [decision for decision in decisions if isinstance(decision, kind)]


def draws_of(decisions: list) -> list[Ask]:
    return [ask for ask in of_kind(decisions, Ask) if ask.pool == ROLLOUT]


def draw_and_score(loop: Loop, *units: Unit) -> list:
    """Report the units as drawn and scored; the decisions that followed."""
    decisions = []
    for unit in units:
        loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    decisions += loop.decide(MANY)
    for unit in units:
        loop.handle(Done(unit, REWARD))
    return decisions + loop.decide(MANY)


def test_only_idle_workers_get_work_and_a_decision_is_given_once() -> None:
    loop = loop_of(steps=1, groups_per_step=3, chunks_per_group=2)
    assert loop.decide({}) == []
    first = loop.decide({ROLLOUT: 2, REWARD: 5})
    assert [draw.batch[0] for draw in first] == train_units(1, 1, 2)
    assert loop.decide({ROLLOUT: 0, REWARD: 5}) == []
    assert [draw.batch[0] for draw in loop.decide(MANY)] == train_units(1, 3, 2)[2:]
    assert loop.decide(MANY) == []


def test_strict_order_draws_ahead_by_the_staleness_and_no_further() -> None:
    loop = loop_of(steps=9, groups_per_step=2, staleness=1)
    draws = loop.decide(MANY)
    assert [(draw.batch[0].step, draw.version) for draw in draws] == [(1, 0), (1, 0), (2, 0), (2, 0)]
    assert of_kind(draw_and_score(loop, *train_units(1, 2)), Train)[0].step == 1
    loop.handle(Trained(1))
    assert [(draw.batch[0].step, draw.version) for draw in draws_of(loop.decide(MANY))] == [(3, 1), (3, 1)]


def test_a_step_is_trained_in_order_of_group_index_not_of_completion() -> None:
    loop = loop_of(steps=1, groups_per_step=3)
    loop.decide(MANY)
    train = of_kind(draw_and_score(loop, *reversed(train_units(1, 3))), Train)[0]
    assert [key.group for key in train.groups] == [0, 1, 2]


def test_one_update_at_a_time() -> None:
    loop = loop_of(steps=3, groups_per_step=1, staleness=2)
    loop.decide(MANY)
    trains = of_kind(draw_and_score(loop, *(Unit("train", step, 0, 0) for step in (1, 2, 3))), Train)
    assert [train.step for train in trains] == [1]
    loop.handle(Trained(1))
    assert [train.step for train in of_kind(loop.decide(MANY), Train)] == [2]


def test_ready_order_trains_what_is_complete_but_waits_for_what_would_get_too_stale() -> None:
    loop = loop_of(steps=4, groups_per_step=2, staleness=1, order="ready")
    units = [draw.batch[0] for draw in loop.decide(MANY)]  # four groups of version 0; 0 and 1 are slow
    assert draw_and_score(loop, *units[2:])[-1] == Train(1, (units[2].key, units[3].key), (0, 0))
    loop.handle(Trained(1))
    newer = [draw.batch[0] for draw in draws_of(loop.decide(MANY))]
    # two groups of version 1 are complete, but at step 3 the slow ones would be too stale: step 2 needs both of them
    assert of_kind(draw_and_score(loop, *newer), Train) == []
    assert of_kind(draw_and_score(loop, units[1]), Train) == []
    assert of_kind(draw_and_score(loop, units[0]), Train) == [Train(2, (units[0].key, units[1].key), (0, 0))]
    loop.handle(Trained(2))
    assert of_kind(loop.decide(MANY), Train) == [Train(3, (newer[0].key, newer[1].key), (1, 1))]


def test_ready_order_waits_early_enough_that_stale_groups_never_exceed_a_step() -> None:
    # S = 2: if step 1 and step 2 both took newer groups, step 3 would have to train four groups of version 0 at once
    loop = loop_of(steps=6, groups_per_step=1, staleness=2, order="ready")
    units = [draw.batch[0] for draw in loop.decide(MANY)]
    assert draw_and_score(loop, units[2])[-1] == Train(1, (units[2].key,), (0,))
    loop.handle(Trained(1))
    newer = draws_of(loop.decide(MANY))[0].batch[0]
    assert of_kind(draw_and_score(loop, newer), Train) == [], "two of version 0 remain for steps 2 and 3"
    assert of_kind(draw_and_score(loop, units[1]), Train) == [Train(2, (units[1].key,), (0,))]


def test_a_unit_that_failed_is_tried_again_elsewhere_before_newer_work() -> None:
    loop = loop_of(steps=1, groups_per_step=3)
    unit = loop.decide({ROLLOUT: 1})[0].batch[0]
    loop.handle(Failed(unit, ROLLOUT, "rollout-7", LOST, "it died"))
    assert loop.decide({ROLLOUT: 1}) == [Ask(ROLLOUT, (unit,), (unit,), 0, frozenset({"rollout-7"}))]
    loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    loop.decide(MANY)
    loop.handle(Failed(unit, REWARD, "reward-1", "deadline", "it hung"))
    assert loop.decide(MANY) == [Ask(REWARD, (unit,), (unit,), 0, frozenset({"rollout-7", "reward-1"}))]


def test_a_lost_payload_is_drawn_again_by_the_same_version_and_no_worker_is_blamed() -> None:
    loop = loop_of(steps=1, groups_per_step=1)
    unit = loop.decide(MANY)[0].batch[0]
    loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    assert loop.decide(MANY) == [Ask(REWARD, (unit,), (unit,), 0)]
    loop.handle(Failed(unit, REWARD, "reward-0", "object_lost", "its node died"))
    assert loop.decide(MANY) == [Ask(ROLLOUT, (unit,), (unit,), 0)]


def test_a_chunk_is_drawn_again_in_its_batch_and_of_that_only_what_is_missing_is_taken() -> None:
    loop = loop_of(steps=1, groups_per_step=4, groups_per_task=2)
    first, second = loop.decide(MANY)
    assert [draw.batch for draw in (first, second)] == [tuple(train_units(1, 2)), tuple(train_units(1, 4)[2:])]
    for unit in first.batch:
        loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    loop.decide(MANY)
    loop.handle(Failed(first.batch[0], REWARD, "reward-0", "raised", "the reward is NaN", retry=False))
    loop.handle(Failed(first.batch[1], REWARD, "reward-1", "object_lost", "its node died"))
    assert draws_of(loop.decide(MANY)) == [Ask(ROLLOUT, first.batch, first.batch[1:], 0)]


@pytest.mark.parametrize(("cause", "tries"), [("raised", 3), (LOST, 5), ("deadline", 5), ("object_lost", 5)])
def test_a_group_is_quarantined_after_its_retries(cause: str, tries: int) -> None:
    loop = loop_of(steps=1, groups_per_step=2, retries=2, lost_retries=4)
    unit, other = train_units(1, 2)
    loop.decide(MANY)
    for attempt in range(tries):
        assert not of_kind(loop.decide(MANY), Quarantined)
        loop.handle(Failed(unit, ROLLOUT, f"rollout-{attempt}", cause, "no luck"))
    assert loop.decide(MANY) == [
        Quarantined(GroupKey("train", 1, 0), cause, "no luck", tries),
        Released(GroupKey("train", 1, 0)),
    ]
    assert of_kind(draw_and_score(loop, other), Train) == [Train(1, (other.key,), (0,))]


def test_a_failure_that_must_not_be_retried_quarantines_at_once() -> None:
    loop = loop_of(steps=1, groups_per_step=1)
    unit = loop.decide(MANY)[0].batch[0]
    loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    loop.decide(MANY)
    loop.handle(Failed(unit, REWARD, "reward-0", "raised", "the reward is NaN", retry=False))
    assert Quarantined(GroupKey("train", 1, 0), "raised", "the reward is NaN", 1) in loop.decide(MANY)


def test_chunks_of_a_quarantined_group_are_dropped_and_it_is_released_when_the_last_has_come_back() -> None:
    loop = loop_of(steps=1, groups_per_step=1, chunks_per_group=4)
    first, second, third, _ = (draw.batch[0] for draw in loop.decide({ROLLOUT: 3}) + loop.decide({ROLLOUT: 1}))
    loop.handle(Done(second, ROLLOUT, CHUNK_BYTES))  # it waits to be scored, and never is
    loop.handle(Failed(first, ROLLOUT, "rollout-0", "raised", "bad prompt", retry=False))
    decisions = loop.decide(MANY)
    assert of_kind(decisions, Released) == []
    assert of_kind(decisions, Ask) == []
    loop.handle(Done(third, ROLLOUT, CHUNK_BYTES))
    assert loop.decide(MANY) == []
    loop.handle(Failed(_, ROLLOUT, "rollout-1", LOST, "it died"))
    assert loop.decide(MANY) == [Released(GroupKey("train", 1, 0))]
    assert loop.progress().bytes_in_flight == 0


def test_a_step_whose_groups_are_all_quarantined_still_trains() -> None:
    loop = loop_of(steps=2, groups_per_step=1)
    loop.handle(Failed(loop.decide(MANY)[0].batch[0], ROLLOUT, "rollout-0", "raised", "bad prompt", retry=False))
    assert of_kind(loop.decide(MANY), Train) == [Train(1, (), ())]
    loop.handle(Trained(1))
    assert [draw.batch[0].step for draw in draws_of(loop.decide(MANY))] == [2]


def test_too_many_quarantined_groups_in_a_row_end_the_run_and_a_good_one_between_them_does_not() -> None:
    def run(good: int | None) -> list:
        loop = loop_of(steps=1, groups_per_step=4, max_failures_in_row=2)
        loop.decide(MANY)
        for unit in train_units(1, 4):
            if unit.group == good:
                draw_and_score(loop, unit)
            else:
                loop.handle(Failed(unit, ROLLOUT, "rollout-0", "raised", "bad prompt", retry=False))
        return loop.decide(MANY)

    assert of_kind(run(good=1), Abort) == []
    aborts = of_kind(run(good=None), Abort)
    assert len(aborts) == 1
    assert "3 training groups in a row" in aborts[0].reason
    assert "bad prompt" in aborts[0].reason


def test_after_an_abort_nothing_more_is_asked() -> None:
    loop = loop_of(steps=2, groups_per_step=2, max_failures_in_row=1)
    units = [draw.batch[0] for draw in loop.decide(MANY)]
    for unit in units:
        loop.handle(Failed(unit, ROLLOUT, "rollout-0", "raised", "bad prompt", retry=False))
    assert len(of_kind(loop.decide(MANY), Abort)) == 1
    loop.handle(Done(units[0], ROLLOUT, CHUNK_BYTES))
    assert loop.decide(MANY) == []
    assert not loop.done


def test_heldout_groups_go_before_training_groups_and_failures_of_theirs_do_not_end_the_run() -> None:
    loop = loop_of(steps=1, groups_per_step=1, evaluations={0: (1, 1)}, max_failures_in_row=0)
    draws = loop.decide(MANY)
    assert [(draw.batch[0].stream, draw.version) for draw in draws] == [("heldout", 0), ("heldout", 0), ("train", 0)]
    loop.handle(Failed(draws[0].batch[0], ROLLOUT, "rollout-0", "raised", "bad prompt", retry=False))
    assert Swept("heldout", 0) in draw_and_score(loop, draws[1].batch[0])
    assert of_kind(draw_and_score(loop, draws[2].batch[0]), Abort) == []


def test_the_run_is_done_when_the_last_evaluation_is() -> None:
    loop = loop_of(steps=1, groups_per_step=1, evaluations={1: (1,)})
    draw_and_score(loop, loop.decide(MANY)[0].batch[0])
    loop.handle(Trained(1))
    heldout = draws_of(loop.decide(MANY))[0].batch[0]
    assert heldout == Unit("heldout", 1, 0, 0)
    assert not loop.done
    assert Swept("heldout", 1) in draw_and_score(loop, heldout)
    assert loop.done


def test_admission_holds_back_later_steps_but_never_the_oldest() -> None:
    loop = loop_of(steps=3, groups_per_step=2, staleness=2, max_groups_in_flight=1)
    assert [draw.batch[0].step for draw in loop.decide(MANY)] == [1, 1]
    assert loop.progress().admission_paused
    draw_and_score(loop, *train_units(1, 2))
    loop.handle(Trained(1))
    assert [draw.batch[0].step for draw in draws_of(loop.decide(MANY))] == [2, 2]


def test_versions_are_needed_as_long_as_a_group_may_be_drawn_again() -> None:
    loop = loop_of(steps=4, groups_per_step=1, staleness=1, evaluations={1: (1,)})
    loop.decide(MANY)
    draw_and_score(loop, Unit("train", 1, 0, 0))
    loop.handle(Trained(1))
    loop.decide(MANY)
    assert loop.oldest_version_needed() == 0, "step 2 was drawn by version 0 and is not trained"
    draw_and_score(loop, Unit("train", 2, 0, 0))
    loop.handle(Trained(2))
    loop.decide(MANY)
    assert loop.oldest_version_needed() == 1
    draw_and_score(loop, Unit("heldout", 1, 0, 0), Unit("train", 3, 0, 0))
    loop.handle(Trained(3))
    assert loop.oldest_version_needed() == 2, "step 4 is yet to be drawn by version 2, or is being drawn"
    loop.decide(MANY)
    draw_and_score(loop, Unit("train", 4, 0, 0))
    loop.handle(Trained(4))
    assert loop.oldest_version_needed() == 3, "if the run is resumed with more steps, step 5 is drawn by version 3"


def test_a_version_is_needed_until_its_evaluation_is_over_begun_or_not() -> None:
    loop = loop_of(steps=3, groups_per_step=1, staleness=1, evaluations={1: (1,)})
    for step in (1, 2, 3):
        loop.decide({ROLLOUT: 1} if step < 3 else MANY)
        draw_and_score(loop, Unit("train", step, 0, 0))
        loop.handle(Trained(step))
    assert loop.oldest_version_needed() == 1


def test_progress_counts_what_waits_and_what_is_under_way() -> None:
    loop = loop_of(steps=2, groups_per_step=3, chunks_per_group=2, evaluations={0: (1,)})
    assert loop.progress().waiting[ROLLOUT] == 7
    loop.decide({ROLLOUT: 3})
    loop.handle(Done(Unit("heldout", 0, 0, 0), ROLLOUT, CHUNK_BYTES))
    progress = loop.progress()
    assert (progress.waiting, progress.busy) == ({ROLLOUT: 4, REWARD: 1}, {ROLLOUT: 2, REWARD: 0})
    loop.decide({REWARD: 1})
    assert loop.progress().busy[REWARD] == 1


def test_an_event_that_answers_no_decision_is_an_error_of_the_driver() -> None:
    loop = loop_of(steps=1, groups_per_step=1)
    unit = loop.decide(MANY)[0].batch[0]
    with pytest.raises(AssertionError, match="nothing was asked of it"):
        loop.handle(Done(unit, REWARD))
    with pytest.raises(AssertionError, match="not in training"):
        loop.handle(Trained(1))


SIDE_BY_SIDE = {"stages": ((ROLLOUT,), ("clip", "echo")), "steps": 1, "groups_per_step": 1}
FREE = {ROLLOUT: 9, "clip": 9, "echo": 9}


def drawn_side_by_side() -> tuple[Loop, Unit]:
    """A unit that two pools are at work on."""
    loop = loop_of(**SIDE_BY_SIDE)
    unit = loop.decide(FREE)[0].unit
    loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    assert {ask.pool for ask in loop.decide(FREE)} == {"clip", "echo"}
    return loop, unit


def test_pools_side_by_side_get_a_unit_at_once_and_it_leaves_when_all_have_returned() -> None:
    loop, unit = drawn_side_by_side()
    loop.handle(Done(unit, "clip"))
    assert loop.decide(FREE) == []
    assert loop.progress().busy == {"clip": 0, "echo": 1, ROLLOUT: 0}
    loop.handle(Done(unit, "echo"))
    assert loop.decide(FREE) == [Settled(unit.key), Train(1, (unit.key,), (0,))]


def test_a_failure_of_one_of_them_is_tried_again_there_alone() -> None:
    loop, unit = drawn_side_by_side()
    loop.handle(Failed(unit, "clip", "clip-0", LOST, "it died"))
    assert loop.decide(FREE) == [Ask("clip", (unit,), (unit,), 0, frozenset({"clip-0"}))]
    loop.handle(Done(unit, "echo"))
    assert loop.decide(FREE) == []
    loop.handle(Done(unit, "clip"))
    assert of_kind(loop.decide(FREE), Train) == [Train(1, (unit.key,), (0,))]


@pytest.mark.parametrize("other", [Done(Unit("train", 1, 0, 0), "echo"), None])
def test_a_payload_that_one_of_them_misses_is_made_again_once_the_other_has_returned(other: Done | None) -> None:
    loop, unit = drawn_side_by_side()
    loop.handle(Failed(unit, "clip", "clip-0", "object_lost", "its node died"))
    assert loop.decide(FREE) == [], "the other one may still have it"
    loop.handle(other or Failed(unit, "echo", "echo-0", "object_lost", "its node died"))
    assert loop.decide(FREE) == [Ask(ROLLOUT, (unit,), (unit,), 0)]
    loop.handle(Done(unit, ROLLOUT, CHUNK_BYTES))
    assert {ask.pool for ask in loop.decide(FREE)} == {"clip", "echo"}, "all of it is judged anew"
    assert loop.progress().bytes_in_flight == CHUNK_BYTES


def test_a_quarantined_group_is_released_when_the_last_of_them_has_returned() -> None:
    loop, unit = drawn_side_by_side()
    loop.handle(Failed(unit, "clip", "clip-0", "raised", "the figure is NaN", retry=False))
    assert of_kind(loop.decide(FREE), Released) == []
    loop.handle(Done(unit, "echo"))
    assert loop.decide(FREE) == [Released(unit.key)]


# of the loop that had these two stages and no others, over the same worlds
DECISIONS_BEFORE = "bb8810af274b"


def test_two_stages_of_a_pool_each_are_decided_as_they_always_were() -> None:
    told = hashlib.sha256()
    for seed in range(10):
        for order in ("strict", "ready"):
            run = Simulation(random_plan(seed, order, retries=1), random_world(seed, **FAILING))
            run.loop.decide = partial(tell, told, run.loop.decide)
            run.run()
    assert told.hexdigest()[:12] == DECISIONS_BEFORE


def tell(told: Any, decide: Callable[[Mapping[str, int]], list], free: Mapping[str, int]) -> list:
    """Decides, and adds what was decided to a hash; but for what was not said then."""
    decisions = decide(free)
    for decision in decisions:
        match decision:
            case Ask(pool, batch, wanted, version, avoid):
                said = (pool, tuple(map(astuple, batch)), tuple(map(astuple, wanted)), version, sorted(avoid))
            case Settled():
                continue
            case _:
                said = (type(decision).__name__, astuple(decision))
        told.update(repr(said).encode())
    return decisions
