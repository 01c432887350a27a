"""Drawing one chunk of a group: load the adapter that the request names, draw, decode, measure what the objective wants."""

from __future__ import annotations

import time

import numpy as np
import torch

from actors.device import pick_device, pick_dtype
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.sample import draw_latents, noise_of
from actors.messages import Adapter, DrawReport, DrawRequest, Latents
from actors.policy.objectives.objective import load_objective
from actors.rollout.probe import ProvenMerger


class Generator:
    """Holds an image model and draws what requests say.

    model: path or hub name; dtype: a torch type's name; objective: the recipe's [objective] table, needed for requests
    that ask for the behaviour policy's figures.
    """

    def __init__(self, model: str, device: str, dtype: str, max_sequence_length: int, objective: dict) -> None:
        options = LoadOptions(
            pick_device(device),
            pick_dtype(dtype, pick_device(device)),
            decoder=True,
            max_sequence_length=max_sequence_length,
        )
        self.family: Family = load_family(model, options)
        self.merger = ProvenMerger(self.family)
        self.objective = load_objective(objective)

    @torch.no_grad()
    def draw(self, request: DrawRequest, adapter: Adapter) -> tuple[DrawReport, np.ndarray, Latents | None]:
        """Returns (report, images uint8 [K, H, W, 3], latents).

        Raises ValueError if the adapter is not the one that the request names, or does not reach the model (see `ProvenMerger`).
        """
        start = time.perf_counter()
        if adapter.sha256 != request.adapter_sha256:
            raise ValueError(f"got adapter {adapter.sha256[:12]}, but the request names {request.adapter_sha256[:12]}")
        self.merger.load(adapter)
        family = self.family
        caption = family.fit_caption(request.caption)
        batch = len(request.noise_seeds)
        shape = family.latent_shape(request.height, request.width)
        noise_BCHW = torch.stack([noise_of(seed, shape) for seed in request.noise_seeds]).to(family.device)
        conditions = family.conditions(caption).repeat(batch)
        unconditional = family.conditions("").repeat(batch)
        sigmas = family.sigmas(request.num_steps, request.height, request.width).to(family.device)
        latents_BCHW = draw_latents(family, noise_BCHW, sigmas, conditions, unconditional, request.guidance_scale)
        images = family.decode(latents_BCHW).contiguous().numpy()
        latents = None
        if request.keep_latents:
            behaviour = {}
            if request.measure_behaviour:
                behaviour = self.objective.measure(family, latents_BCHW, conditions, request.sample_seeds, sigmas)
            latents = Latents(
                latents_BCHW.cpu().numpy(), {name: value.cpu().numpy() for name, value in behaviour.items()}
            )
        report = DrawReport(
            caption=caption,
            cut=caption != request.caption,
            policy_version=request.policy_version,
            adapter_sha256=self.merger.sha256,
            num_bytes=images.nbytes + (latents.latents_KCHW.nbytes if latents else 0),
            seconds=time.perf_counter() - start,
            adapter_effect=self.merger.effect,
        )
        return report, images, latents
