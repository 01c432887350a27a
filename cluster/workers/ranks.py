"""The processes of a gang, from their start over their meeting to their end: all of them live, or none."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.placement.fit import demand_of
from cluster.tasks import Failure, Introduction, PoolSpec
from cluster.workers.heartbeat import Pulse
from cluster.workers.rounds import Round
from cluster.workers.spawn import Site


class Ranks:
    """One incarnation of a gang, in one placement group; it starts at once.

    Constructed all together, then rank 0 is asked for its `address()`, then all `join(address)`: `on_ready()`. If any of
    this fails, or a rank is lost later, `on_lost(failure)` is called, once, and the one who is called ends all of them.
    """

    def __init__(
        self,
        spec: PoolSpec,
        site: Site,
        incarnation: int,
        on_ready: Callable[[], None],
        on_lost: Callable[[Failure], None],
    ) -> None:
        self._spec = spec
        self._site = site
        self.began = time.monotonic()
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._pulses: list[Pulse] = []
        self._placement: PlacementGroup | None = None
        bundle = demand_of(spec)
        if bundle:  # Ray refuses an empty one
            labels = [dict(spec.labels)] * spec.size
            self._placement = placement_group([bundle] * spec.size, strategy="PACK", bundle_label_selector=labels)
        strategy = PlacementGroupSchedulingStrategy(self._placement) if self._placement else None
        suffix = f"-{incarnation}" if incarnation else ""
        self._names = [f"{spec.name}-{rank}{suffix}" for rank in range(spec.size)]
        self.actors = [
            site.start_actor(spec, name, strategy, rank=rank, ranks=spec.size) for rank, name in enumerate(self._names)
        ]
        self._step("the start", [actor.started.remote() for actor in self.actors], self._meet)

    def end(self) -> None:
        """End all processes and give their places back. No call-back comes any more."""
        self._round.cancel()
        for pulse in self._pulses:
            self._site.heartbeats.stop(pulse)
        for actor in self.actors:
            ray.kill(actor)
        if self._placement is not None:
            remove_placement_group(self._placement)
            self._placement = None

    def _step(self, what: str, refs: list[ray.ObjectRef], then: Callable[[list[Any]], None]) -> None:
        def done(values: list[Any], failure: Failure | None) -> None:
            if failure:
                self._on_lost(failure)
            else:
                then(values)

        self._round = Round(self._site.waits, what, refs, self._site.start_timeout_s, done, self._spec.mistakes)

    def _meet(self, said: list[dict[str, Any]]) -> None:
        for name, of_rank in zip(self._names, said, strict=True):
            self._site.introduce(Introduction(self._spec.name, name, of_rank))
        self._step("address()", [self.actors[0].address.remote()], self._join)

    def _join(self, addresses: list[str]) -> None:
        self._step("join()", [actor.join.remote(addresses[0]) for actor in self.actors], self._joined)

    def _joined(self, _: list[Any]) -> None:
        for rank, actor in enumerate(self.actors):
            self._pulses.append(self._site.heartbeats.watch(actor, partial(self._silent, rank)))
        self._on_ready()

    def _silent(self, rank: int, reason: str) -> None:
        self._on_lost(Failure("worker_lost", f"rank {rank}: {reason}"))
