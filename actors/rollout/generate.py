"""Drawing a batch of chunks: load the adapter that the request names, draw, decode, measure what the objective wants."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from actors.device import to_host
from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family, LoadOptions, load_family
from actors.diffusion.sample import draw_latents, starting_noise
from actors.messages import Adapter, DrawReport, DrawRequest, Latents
from actors.policy.objectives.objective import load_objective
from actors.rollout.options import GeneratorSettings
from actors.rollout.probe import ProvenMerger

LATENTS = "latents"


class Generator:
    """Holds an image model and draws what requests say."""

    def __init__(self, settings: GeneratorSettings) -> None:
        options = LoadOptions.of(settings.options, settings.max_sequence_length, decoder=True)
        self.family: Family = load_family(settings.model, options, settings.family)
        self.merger = ProvenMerger(self.family)
        self.objective = load_objective(settings.objective) if settings.objective else None

    @torch.no_grad()
    def draw(self, request: DrawRequest, adapter: Adapter | None) -> tuple:
        """Returns (a report of each part, and then of each part in turn its images uint8 [K, H, W, 3] and its latents or None).

        adapter: None for the base alone, which a request names by an empty hash.
        Raises ValueError if the adapter is not the one that the request names, or does not reach the model (see `ProvenMerger`).
        """
        start = time.perf_counter()
        given = adapter.sha256 if adapter else ""
        if given != request.adapter_sha256:
            raise ValueError(f"got adapter {given[:12]}, but the request names {request.adapter_sha256[:12]}")
        if adapter:
            self.merger.load(adapter)
        else:
            self.merger.unload()
        load_seconds = time.perf_counter() - start
        family = self.family
        captions = [family.fit_caption(part.caption) for part in request.parts]
        noise_seeds = [seed for part in request.parts for seed in part.noise_seeds]
        noise_BCHW = starting_noise(family, noise_seeds, request.height, request.width)
        sigmas = family.sigmas(request.num_steps, request.height, request.width)
        prompted = self._prompted(request, captions)
        behaviour: dict[str, Tensor] = {}
        if request.keep_latents:
            assert self.objective, "this worker draws nothing for training"
            seeds = tuple(seed for part in request.parts for seed in part.sample_seeds)
            latents_BCHW, behaviour = self.objective.draw(family, noise_BCHW, sigmas, prompted, seeds)
        else:
            latents_BCHW = draw_latents(family, noise_BCHW, sigmas, prompted)
        on_host = {name: to_host(tensor) for name, tensor in {LATENTS: latents_BCHW, **behaviour}.items()}
        drawn, first = [], 0
        for part in request.parts:
            rows = slice(first, first := first + len(part.noise_seeds))
            figures = {name: tensor[rows] for name, tensor in on_host.items()}
            images, not_finite = self._decode(latents_BCHW[rows], request)
            kept = _as_latents(figures) if request.keep_latents else None
            drawn.append((images, kept, _not_finite(figures) or not_finite))
        seconds = time.perf_counter() - start
        reports = tuple(
            DrawReport(
                caption=caption,
                cut=caption != part.caption,
                policy_version=request.policy_version,
                adapter_sha256=self.merger.sha256,
                num_bytes=images.nbytes + (kept.num_bytes if kept else 0),
                seconds=seconds,
                adapter_effect=self.merger.effect,
                adapter_share=self.merger.share,
                load_seconds=load_seconds,
                not_finite=not_finite,
            )
            for part, caption, (images, kept, not_finite) in zip(request.parts, captions, drawn, strict=True)
        )
        return reports, *(payload for images, kept, _ in drawn for payload in (images, kept))

    def _prompted(self, request: DrawRequest, captions: list[str]) -> Prompted:
        """A row for each image of the request."""
        self.family.prepare(captions, request.guidance_scale)
        each = [self.family.prompted(caption, request.guidance_scale) for caption in captions]
        parts = zip(each, request.parts, strict=True)
        return self.family.together([prompted.repeat(len(part.noise_seeds)) for prompted, part in parts])

    def _decode(self, latents_KCHW: Tensor, request: DrawRequest) -> tuple[np.ndarray, str]:
        """(images, what of them is not finite); black images where they are not."""
        try:
            return self.family.decode(latents_KCHW).contiguous().numpy(), ""
        except FloatingPointError:
            return np.zeros((len(latents_KCHW), request.height, request.width, 3), np.uint8), "pictures"


def _as_latents(figures: Mapping[str, Tensor]) -> Latents:
    """Latents and what the objective kept beside them; arrays of their own, so that nothing of the other chunks travels along."""
    arrays = {name: tensor.numpy().copy() for name, tensor in figures.items()}
    return Latents(arrays.pop(LATENTS), arrays)


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first that is not finite everywhere; empty if all are."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")
