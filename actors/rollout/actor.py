"""The rollout worker as an actor: a thin shell around `Generator`, importable without torch."""

from __future__ import annotations

import os
from typing import Any

from actors.messages import Adapter, DrawRequest
from actors.process import prepare


class RolloutActor:
    """Draws images with whatever policy version a request names."""

    def __init__(self, num_threads: int, gpu_share: float = 0.0, **generator: Any) -> None:
        prepare(num_threads, gpu_share)
        from actors.rollout.generate import Generator

        self.generator = Generator(**generator)

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
