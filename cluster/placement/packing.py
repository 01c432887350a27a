"""Whether workers can be spread over nodes, each whole on one: a bounded search that refuses only what is impossible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

UNIT = 10_000  # Ray counts resources in ten-thousandths
TRIES = 10_000
Amounts = tuple[int, ...]  # in UNITs


class Load(NamedTuple):
    """What a worker holds: of each resource that adds up, and of GPUs. `pool` is a bit."""

    amounts: Amounts
    gpu: int
    pool: int


class Room(NamedTuple):
    """What is left of a node: of each resource that adds up, and of each GPU, in ascending order. `pools`: bits of those it takes."""

    amounts: Amounts
    gpus: Amounts
    pools: int


def left_after(load: Load, room: Room) -> list[Room]:
    """What is left of a node with this worker on it: for each way to place it, the best first; empty if it does not fit.

    A fraction lies on one GPU. A worker with whole GPUs has them to itself.
    """
    amounts = tuple(there - asked for there, asked in zip(room.amounts, load.amounts, strict=True))
    if not load.pool & room.pools or min(amounts, default=0) < 0:
        return []
    return [Room(amounts, gpus, room.pools) for gpus in _gpus_after(load.gpu, room.gpus)]


def can_be_packed(loads: Sequence[Load], rooms: Sequence[Room]) -> bool:
    """Whether each worker finds room on a node. True also where TRIES steps of the search do not tell."""
    loads = sorted(loads, key=_hardest_first(loads, rooms))
    path = [iter([tuple(sorted(rooms))])]  # for each worker that is placed, the ways that are left to try
    seen = set()
    for _ in range(TRIES):
        if not path:
            return False
        state = next(path[-1], None)
        num_placed = len(path) - 1
        if state is None:
            path.pop()
        elif num_placed == len(loads):
            return True
        elif (num_placed, state) not in seen:
            seen.add((num_placed, state))
            path.append(_ways(loads[num_placed], state))
    return True


def _ways(load: Load, rooms: tuple[Room, ...]) -> Iterator[tuple[Room, ...]]:
    """What is left of all nodes, for each way to place the worker: on the fullest node first."""
    for room in sorted(set(rooms)):
        at = rooms.index(room)
        for left in left_after(load, room):
            yield tuple(sorted((*rooms[:at], left, *rooms[at + 1 :])))


def _gpus_after(asked: int, gpus: Amounts) -> list[Amounts]:
    if asked >= UNIT:
        whole = asked // UNIT
        free = gpus.count(UNIT)
        return [(0,) * whole + gpus[:-whole]] if free >= whole else []
    if not asked:
        return [gpus]
    fitting = sorted({left for left in gpus if left >= asked})  # the fullest GPU first
    ways = [(gpus.index(left), left - asked) for left in fitting]
    return [tuple(sorted((*gpus[:at], left, *gpus[at + 1 :]))) for at, left in ways]


def _hardest_first(loads: Sequence[Load], rooms: Sequence[Room]) -> Callable[[Load], tuple[int, float]]:
    """A sort key: workers with the fewest nodes to go to first, then the largest."""
    amounts = [sum(there) for there in zip(*(room.amounts for room in rooms), strict=True)]
    totals = [max(1, total) for total in (*amounts, sum(sum(room.gpus) for room in rooms))]
    keys = {}
    for load in set(loads):
        share = max(asked / total for asked, total in zip((*load.amounts, load.gpu), totals, strict=True))
        keys[load] = (sum(bool(left_after(load, room)) for room in rooms), -share)
    return keys.__getitem__
