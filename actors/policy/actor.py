"""One rank of the policy gang as an actor: a thin shell around `Learner`, importable without torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

from actors.messages import Adapter, Latents, UpdateGroup
from actors.process import prepare


class PolicyActor:
    """Every rank is called for every method; rank 0's return value counts."""

    def __init__(self, num_threads: int, settings: dict) -> None:
        prepare(num_threads)
        from actors.policy.learner import Learner, LearnerSettings

        self.learner = Learner(LearnerSettings(**settings))

    def update(self, step: int, groups: tuple[UpdateGroup, ...], *chunks: Latents) -> dict[str, float]:
        """See `Learner.update`."""
        return self.learner.update(step, groups, chunks)

    def export(self, policy_version: int) -> tuple[dict, Adapter]:
        """(sha256 and seconds, the adapter)."""
        start = time.perf_counter()
        adapter = self.learner.export(policy_version)
        return {"sha256": adapter.sha256, "seconds": time.perf_counter() - start}, adapter

    def save(self, folder: str, *adapters: Adapter) -> dict[str, str]:
        """Writes the state of training and these adapters under `folder`; returns the files' sha256 by name."""
        from actors.policy.checkpoint import save_state

        return save_state(self.learner, Path(folder), adapters)

    def load(self, folder: str) -> int:
        """Restores what `save` wrote; returns the step."""
        from actors.policy.checkpoint import load_state

        return load_state(self.learner, Path(folder))

    def load_adapter(self, folder: str, policy_version: int) -> tuple[dict, Adapter]:
        """An adapter that `save` wrote: (sha256, the adapter)."""
        from actors.policy.checkpoint import load_adapter

        adapter = load_adapter(self.learner, Path(folder), policy_version)
        return {"sha256": adapter.sha256}, adapter

    def info(self) -> dict:
        """Where this rank runs."""
        return {"pid": os.getpid(), "device": str(self.learner.family.device)}
