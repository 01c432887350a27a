"""How much of a node's own memory its workers take while they start: pipelines are read there before they go to the GPUs, all at once."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.preflight.memory.cards import Actor

GPUS_OF_NODE = 8  # where the run is spread over several nodes: what a node usually has


def starting_at_once(actors: Sequence[Actor], gpus: int = GPUS_OF_NODE) -> tuple[int, dict[str, int]]:
    """The most bytes that workers read on one node of so many GPUs, and how many of each pool that takes.

    Those that read most for their share of a GPU come first, as Ray may bring them together.
    """
    room, total, counts = float(gpus), 0, {}
    for actor in sorted((it for it in actors if it.gpu and it.loading), key=lambda it: -it.loading / it.num_gpus):
        if count := min(actor.count, int(room / actor.num_gpus + 1e-9)):
            room -= count * actor.num_gpus
            total += count * actor.loading
            counts[actor.pool] = count
    return total, counts
