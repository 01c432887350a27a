"""The checks that workers fit the cluster: as a whole, node by node, GPU by GPU, and by labels."""

from __future__ import annotations

import random
from itertools import product

import pytest
from ray._private.label_utils import validate_label_selector

from cluster.placement.demand_table import show_demand
from cluster.placement.fit import Node, PlacementError, check_nodes
from cluster.placement.labels import check_selector, matches
from cluster.placement.packing import UNIT, Load, Room, can_be_packed
from cluster.tasks import PoolSpec

DRIVER, BIG, SMALL = Node({"CPU": 1}), Node({"CPU": 16, "GPU": 4, "memory": 1e9}), Node({"CPU": 4})
EASEL = Node({"CPU": 4, "GPU": 2}, {"room": "easel", "zone": "a", "ray.io/node-id": "1"})
BENCH = Node({"CPU": 4}, {"room": "bench", "zone": "b", "ray.io/node-id": "2"})


def pool(name: str, size: int, **resources: object) -> PoolSpec:
    return PoolSpec(name, object, size=size, **resources)


def refusal(specs: list[PoolSpec], nodes: list[Node]) -> str:
    with pytest.raises(PlacementError) as caught:
        check_nodes(specs, nodes)
    return str(caught.value)


# ---- the whole ------------------------------------------------------------------------------------------------------


def test_workers_that_fit_exactly_pass() -> None:
    specs = [pool("rollout", 3, num_cpus=0.3333, num_gpus=0.5), pool("reward", 1, num_cpus=0, resources={"big": 2})]
    check_nodes(specs, [Node({"CPU": 1.0, "GPU": 2.0, "big": 2})])


def test_the_error_names_what_each_pool_asks_what_there_is_and_what_to_do() -> None:
    specs = [pool("rollout", 2, num_cpus=1, num_gpus=1), pool("reward", 4, num_cpus=0.5), pool("policy", 1, num_gpus=2)]
    message = refusal(specs, [Node({"CPU": 1.0, "memory": 1e9}), Node({"CPU": 1.0})])
    assert "CPU: asked 5 (rollout 2 x 1, reward 4 x 0.5, policy 1 x 1), the cluster has 2" in message
    assert "GPU: asked 4 (rollout 2 x 1, policy 1 x 2), the cluster has 0" in message
    assert "Lower the size of a pool" in message
    assert "RAY_ADDRESS" in message


def test_a_resource_that_is_enough_is_not_mentioned() -> None:
    message = refusal([pool("reward", 2, num_cpus=1, resources={"a100": 1})], [Node({"CPU": 8, "a100": 1})])
    assert "a100: asked 2 (reward 2 x 1), the cluster has 1" in message
    assert "CPU: asked" not in message


# ---- nodes ----------------------------------------------------------------------------------------------------------


def test_workers_that_fit_their_nodes_exactly_pass() -> None:
    specs = [
        pool("rollout", 3, num_cpus=2, num_gpus=1),
        pool("policy", 2, gang=True, num_cpus=1, num_gpus=2),
        pool("reward", 6, num_cpus=0.3333, num_gpus=0.1666),
        pool("storage", 2, num_cpus=2, beside_driver=True),
        pool("nothing", 5, num_cpus=0),
    ]
    check_nodes(specs, [SMALL, BIG, BIG])


def test_a_worker_that_no_single_node_can_hold_is_named_with_what_there_is() -> None:
    message = refusal([pool("policy", 1, num_cpus=2, num_gpus=8)], [SMALL, BIG, BIG])
    assert "a worker of the pool policy does not fit on any node: it asks for CPU 2, GPU 8" in message
    assert "1 x (CPU 4, GPU 0); 2 x (CPU 16, GPU 4)" in message


def test_a_worker_beside_the_driver_must_fit_there() -> None:
    storage = pool("storage", 1, num_gpus=1, beside_driver=True)
    message = refusal([storage], [SMALL, BIG])
    assert "storage does not fit on the driver's node" in message
    check_nodes([storage], [BIG, SMALL])


def test_enough_in_all_but_on_the_wrong_nodes_is_refused() -> None:
    message = refusal([pool("reward", 4, num_gpus=3)], [BIG, BIG, BIG])
    assert "reward 4 x (CPU 1, GPU 3)" in message
    check_nodes([pool("reward", 3, num_gpus=3), pool("rollout", 3, num_gpus=1)], [BIG, BIG, BIG])


# ---- GPUs -----------------------------------------------------------------------------------------------------------

PAIR = Node({"CPU": 16, "GPU": 2})


@pytest.mark.parametrize(
    ("shares", "fit"),
    [
        ((0.6, 0.6), True),
        ((0.6, 0.6, 0.6), False),
        ((0.6, 0.6, 0.4, 0.4), True),
        ((0.7, 0.7, 0.6), False),
        ((1, 0.5, 0.5), True),
        ((1, 0.6, 0.5), False),
        ((2,), True),
        ((0.3333,) * 6, True),
        ((0.4,) * 5, False),
    ],
)
def test_what_is_left_of_one_gpu_is_not_joined_with_what_is_left_of_another(
    shares: tuple[float, ...], fit: bool
) -> None:
    specs = [pool(f"pool{number}", 1, num_gpus=share) for number, share in enumerate(shares)]
    if fit:
        check_nodes(specs, [PAIR])
    else:
        message = refusal(specs, [PAIR])
        assert (
            "GPU: asked" in message or "what is left of one GPU is not joined with what is left of another" in message
        )


def test_more_than_one_gpu_is_a_whole_number_of_them() -> None:
    assert "asks for 1.5 GPUs: give it whole ones" in refusal([pool("rollout", 1, num_gpus=1.5)], [BIG])


# ---- labels ---------------------------------------------------------------------------------------------------------


def test_workers_go_only_to_nodes_with_their_labels() -> None:
    rollout = pool("rollout", 2, num_gpus=1, labels={"room": "easel"})
    check_nodes([rollout, pool("reward", 4, labels={"room": "bench"})], [DRIVER, EASEL, BENCH])
    message = refusal([rollout, pool("reward", 5, labels={"room": "bench"})], [DRIVER, EASEL, BENCH])
    assert "not on the right nodes" in message
    assert "reward 5 x (CPU 1) with room=bench" in message


def test_a_label_that_no_node_has_is_named_with_those_that_there_are() -> None:
    message = refusal([pool("rollout", 1, labels={"room": "cellar", "zone": "a"})], [DRIVER, EASEL, BENCH])
    assert "no node has room=cellar, which the pool rollout asks for" in message
    assert "room=easel,zone=a" in message
    assert "room=bench,zone=b" in message
    assert "ray.io/node-id" not in message


def test_labels_that_no_node_has_together_are_named() -> None:
    message = refusal([pool("rollout", 1, labels={"room": "easel", "zone": "b"})], [DRIVER, EASEL, BENCH])
    assert "no node has room=easel,zone=b together" in message


def test_a_worker_too_large_for_the_nodes_with_its_label_is_named_with_the_label() -> None:
    message = refusal([pool("rollout", 1, num_gpus=1, labels={"room": "bench"})], [DRIVER, EASEL, BENCH])
    assert "pool rollout does not fit on any node with room=bench: it asks for CPU 1, GPU 1" in message


@pytest.mark.parametrize(
    ("selector", "rooms"),
    [
        ("easel", {"easel"}),
        ("!easel", {"bench", None}),
        ("in(easel, bench)", {"easel", "bench"}),
        ("!in(easel,bench)", {None}),
    ],
)
def test_selectors_mean_what_they_mean_to_ray(selector: str, rooms: set[str | None]) -> None:
    """As seen on a Ray with such nodes: a node without the label is one with another value."""
    labels = {None: {}, "easel": {"room": "easel"}, "bench": {"room": "bench"}}
    assert {room for room, carried in labels.items() if matches({"room": selector}, carried)} == rooms


@pytest.mark.parametrize(
    "value", ["spot", "!GPU", "in(A, b-2)", "!in(a)", "-spot", "in()", "in(a,", "!!a", "a b", "a_"]
)
def test_what_ray_would_not_understand_is_refused_and_nothing_else(value: str) -> None:
    pools = [pool("rollout", 1, labels={"room": value})]
    if validate_label_selector({"room": value}) is None:
        check_selector("room", value)
    else:
        assert f'labels of the pool rollout: room = "{value}"' in refusal(pools, [EASEL])


# ---- the table ------------------------------------------------------------------------------------------------------


def test_the_table_shows_pools_kinds_of_nodes_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    specs = [
        pool("rollout", 4, num_gpus=0.5, min_size=2, max_size=8, labels={"room": "easel"}),
        pool("policy", 2, gang=True, num_gpus=1, resources={"fast": 1}),
    ]
    Console(width=120).print(show_demand(specs, [DRIVER, EASEL, EASEL, BENCH]))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "rollout 4 2–8 CPU 1, GPU 0.5 CPU 4, GPU 2 room=easel" in lines
    assert "policy 2 fixed CPU 1, GPU 1, fast 1 CPU 2, GPU 2, fast 2 any" in lines
    assert "2 CPU 4, GPU 2 0 GiB 0 GiB room=easel,zone=a" in lines
    assert "missing fast: asked 2 (policy 2 x 1), the cluster has 0" in lines


# ---- the search -----------------------------------------------------------------------------------------------------


def test_packing_agrees_with_trying_everything() -> None:
    rng = random.Random(0)
    verdicts = []
    for _ in range(300):
        rooms = [Room((rng.randint(1, 6), rng.randint(0, 4)), (), rng.choice((1, 3))) for _ in range(rng.randint(1, 3))]
        loads = [Load((rng.randint(0, 3), rng.randint(0, 2)), 0, rng.choice((1, 2))) for _ in range(rng.randint(1, 6))]
        possible = any(
            all(load.pool & rooms[at].pools for load, at in zip(loads, places, strict=True))
            and all(
                sum(load.amounts[kind] for load, place in zip(loads, places, strict=True) if place == at)
                <= room.amounts[kind]
                for at, room in enumerate(rooms)
                for kind in range(2)
            )
            for places in product(range(len(rooms)), repeat=len(loads))
        )
        assert can_be_packed(loads, rooms) == possible, (loads, rooms)
        verdicts.append(possible)
    assert 50 < sum(verdicts) < 250


def test_packing_of_gpus_agrees_with_trying_everything() -> None:
    rng = random.Random(0)
    verdicts = []
    for _ in range(200):
        num_gpus = rng.randint(1, 3)
        shares = [rng.choice((0.3, 0.4, 0.5, 0.6, 0.7, 1)) for _ in range(rng.randint(1, 6))]
        fractions = [share for share in shares if share < 1]
        left = num_gpus - (len(shares) - len(fractions))
        possible = left >= 0 and any(
            all(sum(share for share, at in zip(fractions, gpus, strict=True) if at == gpu) < 1.00001 for gpu in gpus)
            for gpus in product(range(left), repeat=len(fractions))
        )
        loads = [Load((), round(share * UNIT), 1) for share in shares]
        assert can_be_packed(loads, [Room((), (UNIT,) * num_gpus, 1)]) == possible, (shares, num_gpus)
        verdicts.append(possible)
    assert 50 < sum(verdicts) < 150


def test_a_large_cluster_is_checked() -> None:
    gpu_nodes = [Node({"CPU": 64, "GPU": 8}, {"ray.io/node-id": str(number)}) for number in range(300)]
    specs = [pool("rollout", 1900, num_gpus=1), pool("reward", 100, num_gpus=4), pool("judge", 200, num_gpus=0.5)]
    check_nodes(specs, [SMALL, *gpu_nodes])


@pytest.mark.parametrize("seed", range(10))
def test_what_fits_without_a_gap_is_never_refused_however_hard_to_find(seed: int) -> None:
    rng = random.Random(seed)
    rooms, loads = [], []
    for _ in range(12):
        pieces = [(rng.randint(10, 40), rng.randint(10, 40)) for _ in range(rng.randint(2, 5))]
        loads += [Load(piece, 0, 1) for piece in pieces]
        rooms.append(Room((sum(cpu for cpu, _ in pieces), sum(other for _, other in pieces)), (), 1))
    rng.shuffle(loads)
    assert can_be_packed(loads, rooms)
