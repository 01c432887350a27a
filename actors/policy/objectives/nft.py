"""DiffusionNFT (arXiv 2509.16117): flow matching towards good images, and away from bad ones, relative to the policy that drew.

Two policies are implied by the trained one and the old one that draws: a positive, beta of the way from old to trained and beyond,
and a negative, as far on the other side. Each image is matched by both, weighted by how good it was.
docs/objectives/nft.md has the equations, the options and what other code does differently.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family
from actors.diffusion.sample import draw_latents
from actors.policy.objectives.nft_options import NftOptions
from actors.policy.objectives.objective import AdapterName, Batch, Loss, Policy
from actors.policy.objectives.timesteps import Points, training_points


def optimality(advantages: Tensor, clip: float) -> Tensor:
    """r = clip(A, -c, c) / (2 c) + 1/2, in [0, 1]: how good an image is among those of its prompt."""
    return advantages.clamp(-clip, clip) / clip / 2 + 0.5


def clean_error(velocity: Tensor, points: Points) -> Tensor:
    """mean (x0_hat - x0)^2 / w per point [B * N], with x0_hat = x_t - t v and w = mean |x0_hat - x0|, at least 1e-5, without gradient."""
    error = (points.noised - points.sigma.view(-1, 1, 1, 1) * velocity - points.clean).double().flatten(1)
    weight = error.detach().abs().mean(1).clamp(min=1e-5)
    return error.square().mean(1) / weight


def old_decay(step: int, flat: int, rate: float, most: float) -> float:
    """0 before step `flat`, then min(most, rate * (step - flat)): how much of the old policy is kept."""
    return min(most, rate * max(0, step - flat))


class Nft:
    """The objective. The old policy is the moving average adapter."""

    drawn_by: AdapterName = "ema"
    ema_used = True

    def __init__(self, options: NftOptions) -> None:
        self.options = options

    def draw(
        self, family: Family, noise_BCHW: Tensor, sigmas: Tensor, prompted: Prompted, sample_seeds: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Drawn by the ODE. With behaviour "measured" also the drawing policy's `velocity` [B, N, C, H, W] at the learner's points."""
        latents_BCHW = draw_latents(family, noise_BCHW, sigmas, prompted)
        if self.options.behaviour == "current":
            return latents_BCHW, {}
        points = training_points(self.options, latents_BCHW, prompted.conditions, sample_seeds, sigmas)
        velocity = family.velocity(points.noised, points.sigma, points.conditions)
        return latents_BCHW, {"velocity": velocity.unflatten(0, (len(latents_BCHW), -1))}

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """c * mean [r L+ / beta + (1 - r) L- / beta] + kl_reference * mean (v - v_ref)^2.

        v+ = beta v + (1 - beta) v_old and v- = (1 + beta) v_old - beta v; L+ and L- are their `clean_error`; c is advantage_clip.
        """
        o = self.options
        points = training_points(o, batch.latents_BCHW, batch.prompted.conditions, batch.sample_seeds, batch.sigmas)
        where = points.noised, points.sigma, points.conditions
        measured = batch.behaviour.get("velocity")
        old = policy.velocity(*where, "ema") if measured is None else measured.flatten(0, 1)
        anchor = policy.velocity(*where, "none") if o.kl_reference > 0 else None
        velocity = policy.velocity(*where, "trained")
        positive = clean_error(o.beta * velocity + (1 - o.beta) * old, points)
        negative = clean_error((1 + o.beta) * old - o.beta * velocity, points)
        r = optimality(batch.advantages_B, o.advantage_clip)
        r = r.repeat_interleave(len(points.sigma) // len(r))
        total = o.advantage_clip * ((r * positive + (1 - r) * negative) / o.beta).mean()
        terms = {
            "loss_policy": total,
            "loss_positive": positive.mean(),
            "loss_negative": negative.mean(),
            "old_distance": (velocity - old).double().square().mean(),
        }
        if anchor is not None:
            terms["kl_reference"] = (velocity - anchor).double().square().mean()
            total = total + o.kl_reference * terms["kl_reference"]
        nothing = torch.empty(0, device=total.device)
        return Loss(total, {name: term.detach() for name, term in terms.items()}, nothing, nothing.bool())

    def ema_decay(self, step: int) -> float:
        """min(old_decay_max, old_decay_rate * (step - old_decay_flat)), not below 0."""
        o = self.options
        return old_decay(step, o.old_decay_flat, o.old_decay_rate, o.old_decay_max)
