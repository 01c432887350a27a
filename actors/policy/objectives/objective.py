"""What a training objective must offer."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from actors.diffusion.families.conditions import Conditions, Prompted
from actors.diffusion.family import Family
from actors.mistake import Mistake
from actors.policy.objectives.options import ObjectiveOptions

AdapterName = Literal["trained", "ema", "none"]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples. `behaviour` holds what `draw` gave beside the latents, each with a leading axis B.

    latents_BCHW float32 clean latents, advantages_B float64, sigmas float32 [S + 1] of the sampler that drew, on the CPU.
    """

    latents_BCHW: Tensor
    prompted: Prompted
    advantages_B: Tensor
    sample_seeds: tuple[int, ...]
    sigmas: Tensor
    behaviour: dict[str, Tensor] = field(default_factory=dict)

    def rows(self, first: int, last: int) -> Batch:
        """The samples first .. last - 1."""
        return Batch(
            self.latents_BCHW[first:last],
            self.prompted.rows(first, last),
            self.advantages_B[first:last],
            self.sample_seeds[first:last],
            self.sigmas,
            {name: value[first:last] for name, value in self.behaviour.items()},
        )


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise (mean over the batch's samples), and figures for the log: means by name.

    `ratio` has all probability ratios and `clipped` says which of them were; both are empty for an objective without a ratio.
    """

    total: Tensor
    terms: dict[str, Tensor]
    ratio: Tensor
    clipped: Tensor


class Policy(Protocol):
    """What an objective may ask of the policy, under the adapter "trained" (with gradient), "ema" or "none": the reference."""

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions, adapter: AdapterName) -> Tensor:
        """The velocity given the captions."""
        ...

    def guided_velocity(
        self, latents_BCHW: Tensor, sigma_B: Tensor, prompted: Prompted, adapter: AdapterName
    ) -> Tensor:
        """The velocity that images are drawn with."""
        ...


class Objective(Protocol):
    """How samples are drawn for training, and how they and their advantages become a gradient."""

    drawn_by: AdapterName
    """The adapter that draws: what a new policy version is."""
    ema_used: bool
    """Whether the moving average is needed."""

    def draw(
        self, family: Family, noise_BCHW: Tensor, sigmas: Tensor, prompted: Prompted, sample_seeds: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Clean latents [B, C, H, W], and what the loss needs of the policy that drew them, each with a leading axis B.

        sigmas float32 [S + 1] on the CPU, as in `Batch`: which of them a sample is trained at is drawn there.
        """
        ...

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The loss of a micro-batch."""
        ...

    def ema_decay(self, step: int) -> float:
        """How much of the moving average adapter is kept after the step (1-based)."""
        ...


def clipped_objective(advantages: Tensor, ratio: Tensor, clip_range: float) -> Tensor:
    """max(-A rho, -A clip(rho, 1 - c, 1 + c)), elementwise: PPO's loss before the mean."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def load_objective(options: ObjectiveOptions) -> Objective:
    """The objective that a recipe's [objective] table asks for. Raises Mistake where its class cannot be loaded."""
    try:
        found = pkgutil.resolve_name(options.objective)
    except Exception as error:  # a module may raise anything while it is imported
        told = f"{type(error).__name__}: {error}"
        raise Mistake(f"objective.type = {options.type!r}: {options.objective} cannot be loaded: {told}") from error
    made: Objective = found(options)
    return made
