"""What makes the steps of a path comparable in Flow-GRPO: how much each counts, and a ratio that moves alike at all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.diffusion.sde import Kind, step_moments
from actors.policy.objectives.flow_grpo_options import Ratio, Weights


def step_weights(
    weights: Weights, kind: Kind, ratio: Ratio, sigmas: Tensor, trainable: range, noise_level: float
) -> Tensor:
    """The factor of each of the trainable steps in the loss, of mean 1.

    `noise` (TempFlow-GRPO, arXiv 2508.04324, eq. 8): proportional to the step's deviation D. Left out: its branches, one reward for
    each step that is drawn with noise, which one trainable step with rollout.noise = "group" comes to.
    `even`: inverse to what the log ratio moves with the velocity v per unit of drawn noise, so that every step pulls alike. That is
    |d mean / dv| times 1 / D for sde, 2 D for cps, 1 for the normalised ratio. There it is 1 / -dt as in GRPO-Guard (arXiv 2510.22319,
    eq. 12), but for the mean of 1, and for the first step of sde, whose |d mean / dv| lacks the factor 1 + noise_level^2 / 2.
    """
    sigma, sigma_next = (sigmas[trainable.start + n : trainable.stop + n] for n in (0, 1))
    still = torch.zeros_like(sigma).view(-1, 1, 1, 1)
    slope, deviation, _ = (
        moment.flatten() for moment in step_moments(kind, still, still + 1, sigma, sigma_next, sigmas[1], noise_level)
    )
    if weights == "equal":
        factor = torch.ones_like(deviation)
    elif weights == "noise":
        factor = deviation
    elif ratio == "normalised":
        factor = 1 / slope.abs()
    else:
        factor = deviation / slope.abs() if kind == "sde" else 1 / (2 * deviation * slope.abs())
    return factor / factor.mean()


def normalised_log_ratio(
    latents_next_BCHW: Tensor, mean_BCHW: Tensor, mean_old_BCHW: Tensor, deviation_B111: Tensor
) -> Tensor:
    """The mean over the latent's dimensions of noise * (mean - mean_old), with noise = (x_next - mean_old) / D, [B].

    GRPO-Guard (arXiv 2510.22319, eq. 8) adds |mean - mean_old|^2 / (2 D^2) to the log ratio of normal densities, which makes its
    mean zero over the noise, and multiplies by D, which makes its spread the same at every step: that is this, without the
    differences of large numbers. For cps, whose log-probability lacks the variance, the same two corrections give the same.
    """
    noise = (latents_next_BCHW - mean_old_BCHW) / deviation_B111
    return (noise * (mean_BCHW - mean_old_BCHW)).flatten(1).mean(1)
