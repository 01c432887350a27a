"""The rollout worker as an actor: a thin shell around `Generator`, importable without torch."""

from __future__ import annotations

import os
from typing import Any

from actors.messages import Adapter, DrawRequest, DrawTrial
from actors.process import prepare


class RolloutActor:
    """Draws images with whatever policy version a request names."""

    def __init__(
        self, num_threads: int, gpu_share: float = 0.0, trial: DrawTrial | None = None, **generator: Any
    ) -> None:
        """`trial`: what is tried once before the first task, so that what cannot be drawn is told at the start, as a Mistake."""
        prepare(num_threads, gpu_share)
        from actors.rollout.generate import Generator
        from actors.rollout.trial import try_out

        self.generator = Generator(**generator)
        if trial:
            try_out(self.generator.family, trial)

    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        """See `Generator.draw`: (report, images, latents)."""
        return self.generator.draw(request, adapter)

    def info(self) -> dict:
        """Where this worker runs and what it holds."""
        return {
            "pid": os.getpid(),
            "device": str(self.generator.family.device),
            "adapter": self.generator.merger.sha256,
        }
