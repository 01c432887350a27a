"""Stochastic steps in the place of the ODE's: their mean, their noise, and the log-probability of a step.

With x_sigma = (1 - sigma) * clean + sigma * noise and velocity v = noise - clean, a step goes from sigma to sigma_next < sigma.
In the limit of small steps `sde` keeps the marginals of the flow's ODE. `cps` does not: it keeps the shares of clean and noise in x,
and what the model takes for noise is only approximately that.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["sde", "cps"]


def step_moments(
    kind: Kind,
    latents_BCHW: Tensor,
    velocity_BCHW: Tensor,
    sigma_B: Tensor,
    sigma_next_B: Tensor,
    second_sigma: Tensor,
    noise_level: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(mean [B, C, H, W], standard deviation [B, 1, 1, 1], s [B, 1, 1, 1]) of p(x_next | x), in the type of the latents.

    sde (Flow-GRPO, arXiv 2505.05470, eq. 9), with dt = sigma_next - sigma, s = a sqrt(sigma / (1 - sigma)), where the sampler's
    second sigma stands in the denominator for sigma = 1:
    mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt, deviation s sqrt(-dt).
    cps (coefficients-preserving sampling, arXiv 2509.05952), with s = sigma_next sin(a pi / 2):
    mean = (1 - sigma_next) (x - sigma v) + sqrt(sigma_next^2 - s^2) (x + (1 - sigma) v), deviation s.
    """
    sigma, sigma_next = (value.view(-1, 1, 1, 1).to(latents_BCHW.dtype) for value in (sigma_B, sigma_next_B))
    if kind == "cps":
        s = sigma_next * math.sin(noise_level * math.pi / 2)
        clean = latents_BCHW - sigma * velocity_BCHW
        noise = latents_BCHW + (1 - sigma) * velocity_BCHW
        return (1 - sigma_next) * clean + (sigma_next**2 - s**2).sqrt() * noise, s, s
    dt = sigma_next - sigma
    s = noise_level * (sigma / (1 - torch.where(sigma == 1, second_sigma.to(sigma), sigma))).sqrt()
    half = s**2 / (2 * sigma)
    mean = latents_BCHW * (1 + half * dt) + velocity_BCHW * (1 + half * (1 - sigma)) * dt
    return mean, s * (-dt).sqrt(), s


def step_log_prob(kind: Kind, latents_next_BCHW: Tensor, mean_BCHW: Tensor, deviation_B111: Tensor) -> Tensor:
    """log p(x_next | x) as the mean over the latent's dimensions, [B].

    sde: of the normal density. cps: -(x_next - mean)^2 alone, as its authors have it: no division by the variance, no constants,
    so that a last step without noise does no harm.
    """
    square = (latents_next_BCHW - mean_BCHW).square()
    if kind == "cps":
        return -square.flatten(1).mean(1)
    log_density = -square / (2 * deviation_B111**2) - deviation_B111.log() - math.log(math.sqrt(2 * math.pi))
    return log_density.flatten(1).mean(1)
