"""Drawing one chunk of a group: load the adapter that the request names, draw, decode, measure what the objective wants."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.device import pick_device, pick_dtype, to_device, to_host
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.sample import draw_latents, noise_of
from actors.messages import Adapter, DrawReport, DrawRequest, Latents
from actors.policy.objectives.objective import load_objective
from actors.rollout.probe import ProvenMerger


class Generator:
    """Holds an image model and draws what requests say.

    model: path or hub name; objective: the recipe's [objective] table, which says how samples for training are drawn; dtype: a
    torch type's name; options: further `LoadOptions`.
    """

    def __init__(self, model: str, objective: dict[str, Any], device: str, dtype: str, **options: Any) -> None:
        where = pick_device(device)
        load = LoadOptions(where, pick_dtype(dtype, where), decoder=True, **options)
        self.family: Family = load_family(model, load)
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
        load_seconds = time.perf_counter() - start
        family = self.family
        caption = family.fit_caption(request.caption)
        prompted = family.prompted(caption, request.guidance_scale).repeat(len(request.noise_seeds))
        shape = family.latent_shape(request.height, request.width)
        noise_BCHW = to_device(torch.stack([noise_of(seed, shape) for seed in request.noise_seeds]), family.device)
        sigmas = family.sigmas(request.num_steps, request.height, request.width).to(family.device)
        latents: Latents | None = None
        behaviour: dict[str, Tensor] = {}
        if request.keep_latents:
            latents_BCHW, behaviour = self.objective.draw(family, noise_BCHW, sigmas, prompted, request.sample_seeds)
            latents = Latents(
                to_host(latents_BCHW).numpy(), {name: to_host(value).numpy() for name, value in behaviour.items()}
            )
        else:
            latents_BCHW = draw_latents(family, noise_BCHW, sigmas, prompted)
        not_finite = _not_finite({"latents": latents_BCHW, **behaviour})
        try:
            images = family.decode(latents_BCHW).contiguous().numpy()
        except FloatingPointError:
            not_finite = not_finite or "pictures"
            images = np.zeros((len(latents_BCHW), request.height, request.width, 3), np.uint8)
        report = DrawReport(
            caption=caption,
            cut=caption != request.caption,
            policy_version=request.policy_version,
            adapter_sha256=self.merger.sha256,
            num_bytes=images.nbytes + (latents.num_bytes if latents else 0),
            seconds=time.perf_counter() - start,
            adapter_effect=self.merger.effect,
            adapter_share=self.merger.share,
            load_seconds=load_seconds,
            not_finite=not_finite,
        )
        return report, images, latents


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first that is not finite everywhere; empty if all are."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")
