"""Drawing latents with the probability-flow ODE: Euler steps on the velocity, with guidance."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from actors.diffusion.family import Conditions, Family


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 noise from one seed, drawn on the CPU so that every device sees the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw_latents(
    family: Family,
    noise_BCHW: Tensor,
    sigmas: Tensor,
    conditions: Conditions,
    unconditional: Conditions,
    guidance_scale: float,
) -> Tensor:
    """Integrates dx/dsigma = velocity from sigma = 1 to 0: x <- x + (sigma_next - sigma) * velocity.

    noise [B, C, H, W] float32, sigmas [S + 1] descending, conditions with B rows; returns the clean latents, float32.
    With guidance_scale 1 the unconditional half is not computed.
    """
    latents_BCHW = noise_BCHW
    both = Conditions.concatenate([unconditional, conditions]) if guidance_scale != 1.0 else conditions
    batch = len(noise_BCHW)
    for sigma, sigma_next in pairwise(sigmas):
        if guidance_scale == 1.0:
            velocity_BCHW = family.velocity(latents_BCHW, sigma.expand(batch), both)
        else:
            doubled = family.velocity(latents_BCHW.repeat(2, 1, 1, 1), sigma.expand(2 * batch), both)
            velocity_BCHW = family.guide(doubled[:batch], doubled[batch:], guidance_scale)
        latents_BCHW = latents_BCHW + (sigma_next - sigma) * velocity_BCHW
    return latents_BCHW
