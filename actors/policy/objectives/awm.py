"""Advantage weighted matching (arXiv 2509.25050): flow matching on drawn images, each pulled or pushed by its advantage.

In two lines: the log-probability of a sample is minus its (weighted) flow-matching error at random sigmas, and that stands in
for log p in PPO's clipped objective. docs/objectives/awm.md has the equations, the options and what other code does differently.
"""

from __future__ import annotations

from torch import Tensor

from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family
from actors.diffusion.sample import draw_latents
from actors.policy.objectives.awm_options import AwmOptions, Weighting
from actors.policy.objectives.objective import AdapterName, Batch, Loss, Policy, clipped_objective
from actors.policy.objectives.timesteps import Points, training_points

ANCHORS: dict[str, AdapterName] = {"kl_reference": "none", "kl_ema": "ema"}


def matching_error(velocity: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
    """m = mean over latent dimensions of (v - (noise - x_0))^2, float64: [B, ...] -> [B]."""
    return (velocity.double() - (noise - latents).double()).square().flatten(1).mean(1)


def log_prob(error: Tensor, sigma: Tensor, weighting: Weighting, power: float) -> Tensor:
    """-g(m, t), the stand-in for a log-probability; error m >= 0 and sigma t of one shape, in float64.

    uniform m; t m t; t2 m t^2; huber (sqrt(m + 1e-10) - 1e-5) t; ghuber ((m + 1e-10)^p - 1e-10^p) t / p;
    elbo m / (2 s^2) with s = 0.7 sqrt(t / (1 - min(t, 0.99))), where t is at least
    0.001: at t = 0 it would be infinite.
    """
    tiny = 1e-10
    sigma = sigma.double()
    match weighting:
        case "uniform":
            return -error
        case "t":
            return -error * sigma
        case "t2":
            return -error * sigma**2
        case "huber":
            return -((error + tiny).sqrt() - tiny**0.5) * sigma
        case "ghuber":
            return -((error + tiny) ** power - tiny**power) * sigma / power
        case "elbo":
            sigma = sigma.clamp(min=1e-3)
            return -error / (2 * 0.49 * sigma / (1 - sigma.clamp(max=0.99)))


def ema_decay(step: int, rate: float, most: float) -> float:
    """min(most, rate * step): the moving average follows closely at first."""
    return min(most, rate * step)


class Awm:
    """The objective."""

    drawn_by: AdapterName = "trained"

    def __init__(self, options: AwmOptions) -> None:
        self.options = options
        self.ema_used = options.kl_ema > 0

    def draw(
        self, family: Family, noise_BCHW: Tensor, sigmas: Tensor, prompted: Prompted, sample_seeds: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Drawn by the ODE. With behaviour "measured" also `log_prob` [B, N] at the points that the learner will use."""
        latents_BCHW = draw_latents(family, noise_BCHW, sigmas, prompted)
        if self.options.behaviour == "current":
            return latents_BCHW, {}
        points = training_points(self.options, latents_BCHW, prompted.conditions, sample_seeds, sigmas)
        velocity = family.velocity(points.noised, points.sigma, points.conditions)
        return latents_BCHW, {"log_prob": self._log_prob(velocity, points, len(latents_BCHW))}

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """loss_pg + kl_reference * mean (v - v_ref)^2 + kl_ema * mean (v - v_ema)^2, all at the same (sigma, noise) pairs."""
        o = self.options
        points = training_points(o, batch.latents_BCHW, batch.prompted.conditions, batch.sample_seeds, batch.sigmas)
        weights = {"kl_reference": o.kl_reference, "kl_ema": o.kl_ema}
        anchors = {
            name: policy.velocity(points.noised, points.sigma, points.conditions, ANCHORS[name])
            for name, weight in weights.items()
            if weight > 0
        }
        velocity = policy.velocity(points.noised, points.sigma, points.conditions, "trained")
        log_prob_BN = self._log_prob(velocity, points, len(batch.latents_BCHW))
        old_BN = batch.behaviour.get("log_prob", log_prob_BN.detach())
        if o.ratio == "sum_first":
            ratio = (log_prob_BN.mean(1, keepdim=True) - old_BN.mean(1, keepdim=True)).exp()
        else:
            ratio = (log_prob_BN - old_BN).exp()
        advantages_B1 = batch.advantages_B.double().clamp(-o.advantage_clip, o.advantage_clip)[:, None]
        advantages_B1 = advantages_B1 / o.advantage_clip * o.advantage_max
        policy_loss = clipped_objective(advantages_B1, ratio, o.clip_range).mean()
        terms = {
            "loss_policy": policy_loss,
            "matching_error": matching_error(velocity, points.clean, points.noise).mean(),
        }
        terms |= {name: (velocity - anchor).double().square().mean() for name, anchor in anchors.items()}
        total = policy_loss + sum(weights[name] * terms[name] for name in anchors)
        clipped = (ratio - 1).abs() > o.clip_range
        return Loss(total, {name: term.detach() for name, term in terms.items()}, ratio.detach(), clipped)

    def ema_decay(self, step: int) -> float:
        """min(ema_decay_max, ema_decay_rate * step)."""
        return ema_decay(step, self.options.ema_decay_rate, self.options.ema_decay_max)

    def _log_prob(self, velocity: Tensor, points: Points, batch: int) -> Tensor:
        error = matching_error(velocity, points.clean, points.noise)
        return log_prob(error, points.sigma, self.options.weighting, self.options.ghuber_power).view(batch, -1)
