"""At which sigmas, and with which noise, a sample is trained: stratified over the sampler's path, from the sample's own seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.device import to_device
from actors.diffusion.families.conditions import Conditions
from actors.policy.objectives.options import MatchingOptions, Timesteps
from actors.seeds import seed_of, stream_of


@dataclass(frozen=True)
class Points:
    """The B * N training points of B samples, sample by sample: noised latents, their sigma and noise, repeated conditions."""

    noised: Tensor
    clean: Tensor
    sigma: Tensor
    noise: Tensor
    conditions: Conditions


def training_points(
    options: MatchingOptions,
    latents_BCHW: Tensor,
    conditions: Conditions,
    sample_seeds: tuple[int, ...],
    sigmas: Tensor,
) -> Points:
    """x_t = (1 - t) x_0 + t noise at each sample's own (t, noise) pairs."""
    sigma_BN, noise_BNCHW = training_pairs(
        sample_seeds,
        tuple(latents_BCHW.shape[1:]),
        sigmas,
        kind=options.timesteps,
        count=options.timesteps_per_sample,
        shift=options.timestep_shift,
        lowest=options.timestep_min,
        fraction=options.timestep_fraction,
    )
    count = sigma_BN.shape[1]
    clean = latents_BCHW.repeat_interleave(count, dim=0)
    sigma = to_device(sigma_BN.flatten(), latents_BCHW.device)
    noise = to_device(noise_BNCHW.flatten(0, 1), latents_BCHW.device)
    weight = sigma.view(-1, 1, 1, 1)
    return Points((1 - weight) * clean + weight * noise, clean, sigma, noise, conditions.repeat(count))


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """sigma -> s sigma / (1 + (s - 1) sigma): the resolution shift of SD3 (arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def stratified(count: int, generator: np.random.Generator) -> Tensor:
    """One uniform number in each of `count` equal parts of [0, 1), ascending, float32 [count]."""
    return torch.from_numpy((np.arange(count) + generator.random(count)) / count).float()


def draw_sigmas(
    kind: Timesteps,
    count: int,
    sigmas: Tensor,
    shift: float,
    lowest: float,
    fraction: float,
    generator: np.random.Generator,
) -> Tensor:
    """`count` sigmas in (0, 1], one per stratum, float32 [count].

    uniform: [lowest, 1] stratified, then shifted. logit_normal: sigmoid of a normal by strata of its quantiles, shifted
    likewise, at least 0.01. subset: `count` different ones of all the sampler's own sigmas but the last, which is 0.
    discrete*: indices into the sampler's own sigmas (descending), one drawn in each of `count` buckets of the first `fraction` of
    the path; `discrete` begins at index 0, `discrete_wo_init` at 1, `discrete_with_init` always has 0 and buckets the rest.
    Follows the official AWM code (arXiv 2509.25050), which shares one draw among a micro-batch; here each sample has its own.
    """
    if kind == "uniform":
        return shift_sigma(lowest + (1 - lowest) * stratified(count, generator), shift)
    if kind == "logit_normal":
        quantiles = stratified(count, generator).clamp(1e-6, 1 - 1e-6)
        return shift_sigma(torch.sigmoid(torch.special.ndtri(quantiles)), shift).clamp(min=0.01)
    if kind == "subset":
        return sigmas[np.sort(generator.permutation(len(sigmas) - 1)[:count])]
    end = int((len(sigmas) - 1) * fraction)
    if kind == "discrete_with_init":
        rest = bucket_indices(1, end, count - 1, generator) if count > 1 else torch.empty(0, dtype=torch.long)
        return sigmas[torch.cat([torch.zeros(1, dtype=torch.long), rest])]
    return sigmas[bucket_indices(1 if kind == "discrete_wo_init" else 0, end, count, generator)]


def bucket_indices(start: int, end: int, count: int, generator: np.random.Generator) -> Tensor:
    """One random index in each of `count` buckets cut from [start, end) by linspace; an empty bucket gives its left edge, int64 [count]."""
    edges = torch.linspace(start, end, count + 1).long()
    width = (edges[1:] - edges[:-1]).clamp(min=1)
    return edges[:-1] + torch.from_numpy(generator.integers(width.numpy()))


def training_pairs(
    sample_seeds: tuple[int, ...], shape: tuple[int, ...], sigmas: Tensor, **draw: object
) -> tuple[Tensor, Tensor]:
    """(sigma_BN, noise_BNCHW) of each sample, float32 on the CPU: the same wherever and whenever they are asked for."""
    sigma_rows, noise_rows = [], []
    for seed in sample_seeds:
        generator = stream_of(seed_of(seed, "pairs"))
        sigma_rows.append(draw_sigmas(sigmas=sigmas, generator=generator, **draw))  # type: ignore[arg-type]
        noise_rows.append(torch.from_numpy(generator.standard_normal((len(sigma_rows[-1]), *shape), np.float32)))
    return torch.stack(sigma_rows), torch.stack(noise_rows)
