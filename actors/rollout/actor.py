"""Workers that draw as actors: thin shells around `Generator`, importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from actors.messages import Adapter, DrawRequest, DrawTrial
from actors.process import Process, leaves_room, prepare
from actors.rollout.options import GeneratorSettings, LoraFiles


class RolloutActor:
    """Draws images with whatever policy version a request names."""

    def __init__(self, process: Process, settings: GeneratorSettings, trial: DrawTrial | None = None) -> None:
        """`trial`: what is tried once before the first task, so that what cannot be drawn raises a Mistake at the start."""
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


class ModelsActor:
    """Draws images with one base, as it is or with whichever LoRA of those that it was given a request names."""

    def __init__(
        self,
        process: Process,
        settings: GeneratorSettings,
        loras: Mapping[str, LoraFiles],
        trials: tuple[DrawTrial, ...] = (),
    ) -> None:
        """loras: by the hash that requests name them by. trials: see `RolloutActor`. Raises Mistake for a LoRA that is not of this base."""
        device = prepare(process, settings.options.device)
        from actors.rollout.generate import Generator
        from actors.rollout.trial import try_adapter, try_out

        self.generator = Generator(replace(settings, options=settings.options.model_copy(update={"device": device})))
        for trial in trials:
            try_out(self.generator.family, trial)
        self.adapters = {sha256: try_adapter(self.generator, lora) for sha256, lora in loras.items()}

    @leaves_room
    def draw(self, request: DrawRequest) -> tuple:
        """See `Generator.draw`. The request names a LoRA by the hash that it was given with, the base by an empty one."""
        if not request.adapter_sha256:
            return self.generator.draw(request, None)
        adapter = self.adapters[request.adapter_sha256]
        return self.generator.draw(replace(request, adapter_sha256=adapter.sha256), adapter)

    def info(self) -> dict:
        """Where and how this worker runs."""
        from actors.device import where

        return where(self.generator.family.device, self.generator.family.dtype)
