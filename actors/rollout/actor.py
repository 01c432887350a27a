"""The rollout worker as an actor: a thin shell around `Generator`, importable without torch."""

from __future__ import annotations

from dataclasses import replace

from actors.messages import Adapter, DrawRequest, DrawTrial
from actors.process import Process, leaves_room, prepare
from actors.rollout.options import GeneratorSettings


class RolloutActor:
    """Draws images with whatever policy version a request names."""

    def __init__(self, process: Process, settings: GeneratorSettings, trial: DrawTrial | None = None) -> None:
        """`trial`: what is tried once before the first task, so that what cannot be drawn is told at the start, as a Mistake."""
        device = prepare(process, settings.options.device)
        from actors.rollout.generate import Generator
        from actors.rollout.trial import try_out

        self.generator = Generator(replace(settings, options=settings.options.model_copy(update={"device": device})))
        if trial:
            try_out(self.generator.family, trial)

    @leaves_room
    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple:
        """See `Generator.draw`: (reports, images, latents, images, latents, ...)."""
        return self.generator.draw(request, adapter)

    def info(self) -> dict:
        """Where and how this worker runs."""
        from actors.device import where

        return where(self.generator.family.device, self.generator.family.dtype)
