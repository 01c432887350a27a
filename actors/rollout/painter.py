"""Draws pictures for people, in one process: by the sampler and from the seeds of the rollout workers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actors.device import pick_device, pick_dtype
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.foreign_lora import as_adapter
from actors.diffusion.sample import draw_latents, starting_noise
from actors.mistake import Mistake
from actors.rollout.probe import ProvenMerger

PIXELS = 1024  # of a model that does not say its size


@dataclass(frozen=True)
class Drawing:
    """How to draw a picture; `height` and `width` in pixels."""

    num_steps: int
    guidance_scale: float
    height: int
    width: int


class Painter:
    """An image model, as it is and, after `wear`, with a LoRA merged into it."""

    def __init__(
        self, model: str, device: str, dtype: str, max_sequence_length: int, family: str | None = None
    ) -> None:
        where = pick_device(device)
        options = LoadOptions(where, pick_dtype(dtype, where), decoder=True, max_sequence_length=max_sequence_length)
        self.family: Family = load_family(model, options, family)
        self.merger = ProvenMerger(self.family)

    def own_way(self) -> Drawing:
        """The defaults of the model's diffusers pipeline."""
        pipeline = self.family.pipeline
        defaults = {
            name: parameter.default for name, parameter in inspect.signature(type(pipeline).__call__).parameters.items()
        }
        side = getattr(pipeline, "default_sample_size", PIXELS // self.family.scale) * self.family.scale
        guidance_scale = defaults.get("guidance_scale") or defaults.get("true_cfg_scale") or 1.0
        return Drawing(defaults["num_inference_steps"], guidance_scale, side, side)

    def wear(self, file: Path) -> None:
        """Merges the LoRA of a file. Raises Mistake if it cannot be read, ValueError if it was made for another model."""
        self.merger.load(as_adapter(self.family.pipeline, file))

    def check(self, drawing: Drawing) -> None:
        """Raises Mistake for a size or a number of steps that the model does not draw."""
        try:
            self.family.sigmas(drawing.num_steps, drawing.height, drawing.width)
        except ValueError as error:
            raise Mistake(str(error)) from error

    @torch.no_grad()
    def draw(self, caption: str, seeds: tuple[int, ...], drawing: Drawing) -> np.ndarray:
        """An image for each seed of starting noise, uint8 [K, H, W, 3], in one batch. Raises Mistake if one is not finite."""
        family = self.family
        prompted = family.prompted(family.fit_caption(caption), drawing.guidance_scale).repeat(len(seeds))
        noise_BCHW = starting_noise(family, seeds, drawing.height, drawing.width)
        sigmas = family.sigmas(drawing.num_steps, drawing.height, drawing.width)
        latents_BCHW = draw_latents(family, noise_BCHW, sigmas, prompted)
        if not latents_BCHW.isfinite().all():
            remedy = "its weights are damaged" if family.dtype == torch.float32 else "try --dtype float32"
            raise Mistake(f"the model draws numbers that are not finite in {family.dtype}: {remedy}")
        return family.decode(latents_BCHW).contiguous().numpy()
