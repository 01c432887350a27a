"""What one worker takes, and how workers lie on cards: what the fullest one gets, and how large a card must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

GIB = 2**30
NOT_OF_TORCH = "CUDA and libraries"  # held outside of torch's allocator, which alone keeps to a worker's share
USABLE = 0.985  # of what a card is named after: an "80 GB" one offers 79.2 to 79.6 GiB


@dataclass(frozen=True)
class Actor:
    """The memory of one worker in bytes: on its GPU, or of the process where it has none.

    held: what stays, by what it is; phases: what comes beside that, one after another; loading: of the host, while it starts.
    """

    pool: str
    count: int
    num_gpus: float
    gpu: bool
    held: dict[str, int]
    phases: dict[str, int] = field(default_factory=dict)
    loading: int = 0

    @property
    def peak(self) -> int:
        """The most that it needs at any time."""
        return sum(self.held.values()) + max(self.phases.values(), default=0)

    @property
    def of_torch(self) -> int:
        """The most that torch takes for it: what a share of a GPU (actors/device.py) limits."""
        return self.peak - self.held.get(NOT_OF_TORCH, 0)

    @property
    def widest(self) -> str:
        """The phase that needs the most."""
        return max(self.phases, key=lambda name: self.phases[name])


def card_needed(actors: Sequence[Actor]) -> int:
    """The smallest card, in bytes, that holds whatever may meet on it, and of which every worker's share is enough for that worker."""
    sharing = [actor for actor in actors if actor.gpu and actor.num_gpus < 1]
    return max(fullest_gpu(actors)[0], *(math.ceil(actor.of_torch / actor.num_gpus) for actor in sharing), 0)


def fullest_gpu(actors: Sequence[Actor]) -> tuple[int, dict[str, int]]:
    """The most bytes that Ray may bring together on one GPU, and how many workers of each pool that takes.

    Any workers whose fractions add up to 1 at most may meet. A worker with whole GPUs counts on one of them.
    """
    placed = [actor for actor in actors if actor.gpu]
    ranges = [range(min(actor.count, math.floor(1 / min(1.0, actor.num_gpus) + 1e-9)) + 1) for actor in placed]
    best: tuple[int, dict[str, int]] = (0, {})
    for counts in product(*ranges):
        pairs = list(zip(counts, placed, strict=True))
        if sum(count * min(1.0, actor.num_gpus) for count, actor in pairs) > 1 + 1e-9:
            continue
        total = sum(count * actor.peak for count, actor in pairs)
        if total > best[0]:
            best = total, {actor.pool: count for count, actor in pairs if count}
    return best
