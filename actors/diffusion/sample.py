"""Drawing latents with the probability-flow ODE: Euler steps on the velocity, with guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from actors.device import to_device
from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family
from actors.seeds import stream_of


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 noise from one seed, drawn on the CPU so that every device sees the same."""
    return torch.from_numpy(stream_of(seed).standard_normal(shape, dtype=np.float32))


def starting_noise(family: Family, seeds: Sequence[int], height: int, width: int) -> Tensor:
    """Noise for an image of this size in pixels from each seed, float32 [B, C, H, W] on the family's device."""
    shape = family.latent_shape(height, width)
    return to_device(torch.stack([noise_of(seed, shape) for seed in seeds]), family.device)


@torch.no_grad()
def draw_latents(family: Family, noise_BCHW: Tensor, sigmas: Tensor, prompted: Prompted) -> Tensor:
    """Integrates dx/dsigma = velocity from sigma = 1 to 0: x <- x + (sigma_next - sigma) * velocity.

    noise [B, C, H, W] float32, sigmas [S + 1] descending and on the CPU, `prompted` with B rows; returns the clean latents, float32.
    """
    latents_BCHW = noise_BCHW
    for sigma, sigma_next in pairwise(to_device(sigmas, noise_BCHW.device)):
        velocity_BCHW = family.guided_velocity(latents_BCHW, sigma.expand(len(noise_BCHW)), prompted)
        latents_BCHW = latents_BCHW + (sigma_next - sigma) * velocity_BCHW
    return latents_BCHW
