"""Flow-GRPO (arXiv 2505.05470): sampling steps are made stochastic, and PPO's clipped objective is taken on their exact log-probabilities.

Some consecutive steps of each sample's path (its window) are drawn with noise and trained; the others follow the ODE.
docs/objectives/flow_grpo.md has the equations, the options and what other code does differently.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from actors.device import to_device
from actors.diffusion.families.conditions import Prompted
from actors.diffusion.family import Family
from actors.diffusion.sample import noise_of
from actors.diffusion.sde import step_log_prob, step_moments
from actors.policy.objectives.flow_grpo_options import FlowGrpoOptions
from actors.policy.objectives.flow_grpo_steps import normalised_log_ratio, step_weights
from actors.policy.objectives.objective import AdapterName, Batch, Loss, Policy, clipped_objective
from actors.seeds import seed_of


def window_starts(sample_seeds: tuple[int, ...], trainable: range, window: int) -> list[int]:
    """The first trained step of each sample: uniform over the windows inside the trainable steps, from its own seed."""
    places = len(trainable) - window + 1
    return [trainable[seed_of(seed, "window") % places] for seed in sample_seeds]


class FlowGrpo:
    """The objective. Left out: the moving average of the weights for evaluation."""

    drawn_by: AdapterName = "trained"
    ema_used = False

    def __init__(self, options: FlowGrpoOptions) -> None:
        self.options = options

    @torch.no_grad()
    def draw(
        self, family: Family, noise_BCHW: Tensor, sigmas: Tensor, prompted: Prompted, sample_seeds: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Clean latents and the trained part of the path.

        `path` [B, N + 1, C, H, W]: the latents before each trained step and after the last; `start` [B]: the number of the first;
        with behaviour "measured" and the plain ratio also `log_prob` [B, N].
        """
        window, device = self.options.window, noise_BCHW.device
        sigmas = to_device(sigmas, device)
        starts = window_starts(sample_seeds, self._trainable(sigmas), window)
        start_B, row_B = to_device(torch.tensor(starts), device), torch.arange(len(starts), device=device)
        noise_BNCHW = to_device(_step_noise(sample_seeds, window, tuple(noise_BCHW.shape[1:])), device)
        latents, states, log_probs = noise_BCHW, [noise_BCHW], []
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            sigma_B, sigma_next_B = sigma.expand(len(starts)), sigma_next.expand(len(starts))
            velocity = family.guided_velocity(latents, sigma_B, prompted)
            mean, deviation, _ = self._step(latents, velocity, sigma_B, sigma_next_B, sigmas)
            latents = latents + (sigma_next - sigma) * velocity
            if min(starts) <= i < max(starts) + window:
                number_B = i - start_B
                inside_B = (number_B >= 0) & (number_B < window)
                noisy = mean + deviation * noise_BNCHW[row_B, number_B.clamp(0, window - 1)]
                latents = torch.where(inside_B.view(-1, 1, 1, 1), noisy, latents)
            states.append(latents)
            log_probs.append(step_log_prob(self.options.step, latents, mean, deviation))
        step_BN = start_B[:, None] + torch.arange(window + 1, device=device)
        behaviour = {"path": torch.stack(states)[step_BN, row_B[:, None]], "start": start_B}
        if self.options.behaviour == "measured" and self.options.ratio == "plain":
            behaviour["log_prob"] = torch.stack(log_probs)[step_BN[:, :-1], row_B[:, None]]
        return latents, behaviour

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """mean w max(-A rho, -A clip(rho, 1 +- c)) + kl_reference * mean (mean - mean_ref)^2 / (2 s^2), over samples and trained steps.

        A is clamped to +- advantage_clip, w are the `step_weights`. The divisor of the last term leaves out -dt, as the authors' code
        does.
        """
        o = self.options
        path, start_B = batch.behaviour["path"], batch.behaviour["start"]
        window = path.shape[1] - 1
        before, after = path[:, :-1].flatten(0, 1), path[:, 1:].flatten(0, 1)
        index = (start_B[:, None] + torch.arange(window, device=start_B.device)).flatten()
        sigmas = to_device(batch.sigmas, path.device)
        sigma, sigma_next, prompted = sigmas[index], sigmas[index + 1], batch.prompted.repeat(window)
        terms = {}
        if o.kl_reference > 0:
            anchor = policy.guided_velocity(before, sigma, prompted, "none")
            mean_reference = self._step(before, anchor, sigma, sigma_next, sigmas)[0]
        velocity = policy.guided_velocity(before, sigma, prompted, "trained")
        mean, deviation, scale = self._step(before, velocity, sigma, sigma_next, sigmas)
        ratio = self._log_ratio(batch, after, mean, deviation).exp()
        advantages_B1 = batch.advantages_B.clamp(-o.advantage_clip, o.advantage_clip)[:, None]
        trainable = self._trainable(sigmas)
        weights = step_weights(o.step_weights, o.step, o.ratio, sigmas, trainable, o.noise_level)
        weights_BN = weights[(index - trainable.start).clamp(min=0)].view(ratio.shape)  # a blank sample starts at 0
        terms["loss_policy"] = (weights_BN * clipped_objective(advantages_B1, ratio, o.clip_range)).mean()
        total = terms["loss_policy"]
        if o.kl_reference > 0:
            terms["kl_reference"] = ((mean - mean_reference).square() / (2 * scale**2)).mean()
            total = total + o.kl_reference * terms["kl_reference"]
        clipped = (ratio - 1).abs() > o.clip_range
        return Loss(total, {name: term.detach() for name, term in terms.items()}, ratio.detach(), clipped)

    def ema_decay(self, step: int) -> float:
        """There is no moving average."""
        raise NotImplementedError

    def _log_ratio(self, batch: Batch, after: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """[B, N]. The old policy is the one that drew if it is to be measured, else the learner's own."""
        o, count = self.options, len(batch.sample_seeds)
        if o.ratio == "normalised":
            mean_old = mean.detach()
            if o.behaviour == "measured":
                drawn = _step_noise(batch.sample_seeds, len(after) // count, tuple(after.shape[1:])).flatten(0, 1)
                mean_old = after - deviation * to_device(drawn, after.device)
            return normalised_log_ratio(after, mean, mean_old, deviation).view(count, -1)
        log_prob_BN = step_log_prob(o.step, after, mean, deviation).view(count, -1)
        return log_prob_BN - batch.behaviour.get("log_prob", log_prob_BN.detach())

    def _trainable(self, sigmas: Tensor) -> range:
        return self.options.trainable(len(sigmas) - 1)

    def _step(
        self, latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor, sigmas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        o = self.options
        return step_moments(o.step, latents, velocity, sigma, sigma_next, sigmas[1], o.noise_level)


def _step_noise(sample_seeds: tuple[int, ...], window: int, shape: tuple[int, ...]) -> Tensor:
    """[B, N, C, H, W] standard normal, float32 on the CPU, each sample's from its own seed."""
    return torch.stack([noise_of(seed_of(seed, "steps"), (window, *shape)) for seed in sample_seeds])
