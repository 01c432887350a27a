"""One rank of the policy gang as an actor: a thin shell around `Learner`, importable without torch."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from actors.messages import Adapter, Latents, UpdateGroup
from actors.policy.options import LearnerSettings
from actors.process import Process, leaves_room, prepare


class PolicyActor:
    """Every rank is called for every method, in the same order; rank 0's return value counts.

    A rank is made, then rank 0 says where to meet, then all of them join there; from then on they train.
    """

    def __init__(self, rank: int, ranks: int, process: Process, settings: LearnerSettings) -> None:
        device = prepare(process, settings.policy.device)
        from actors.diffusion.trial import try_network
        from actors.policy.learner import load_model
        from actors.policy.meeting import Meeting

        self.meeting = Meeting(rank, ranks)
        self.settings = replace(settings, policy=settings.policy.model_copy(update={"device": device}))
        self.family = load_model(self.settings)
        try_network(self.family, self.settings.trial)

    def address(self) -> str:
        """Where this rank can be met, "host:port"; nowhere in stage 0, where there is no other."""
        if self.settings.policy.zero_stage == 0:
            return ""
        import ray

        return self.meeting.open(ray.util.get_node_ip_address())

    def join(self, address: str) -> None:
        """Meets the other ranks at rank 0's address; returns when all are there."""
        from actors.policy.engine import start_engine
        from actors.policy.learner import Learner

        engine = start_engine(self.family.transformer, self.settings.policy, self.meeting, address)
        self.learner = Learner(self.settings, self.family, engine)

    @leaves_room
    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        """One step on the samples of all ranks; these are this rank's. See `Learner.update`."""
        return self.learner.update(step, groups, chunks)

    @leaves_room
    def export(self, policy_version: int) -> tuple[dict, Adapter | None]:
        """(sha256 and seconds, the adapter) on rank 0; the others have nothing to give."""
        start = time.perf_counter()
        adapter = self.learner.export(policy_version)
        if adapter is None:
            return {}, None
        return {"sha256": adapter.sha256, "seconds": time.perf_counter() - start}, adapter

    @leaves_room
    def snapshot(self, *adapters: Adapter) -> tuple[dict, dict[str, np.ndarray]]:
        """The policy's files of a checkpoint, with these adapters: (bytes and seconds, bytes by file name). Rank 0 has them."""
        from actors.policy.checkpoint import snapshot

        start = time.perf_counter()
        files = snapshot(self.learner, adapters)
        num_bytes = sum(content.nbytes for content in files.values())
        return {"bytes": num_bytes, "seconds": time.perf_counter() - start}, files

    def load(self, files: dict[str, np.ndarray]) -> int:
        """Restores what `snapshot` gave, by any number of ranks in any stage; returns the step."""
        from actors.policy.checkpoint import load

        return load(self.learner, files)

    def load_adapter(self, files: dict[str, np.ndarray], policy_version: int) -> tuple[dict, Adapter | None]:
        """An adapter that `snapshot` was given: (sha256, the adapter) on rank 0; the others have nothing to give."""
        from actors.policy.checkpoint import load_adapter

        if self.meeting.rank:
            return {}, None
        adapter = load_adapter(self.learner, files, policy_version)
        return {"sha256": adapter.sha256}, adapter

    def info(self) -> dict:
        """Where and how this rank runs."""
        from actors.device import where

        return {"rank": self.meeting.rank, **where(self.family.device, self.family.dtype)}
