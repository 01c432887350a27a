"""What a training objective must offer, and the registry of objectives."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from actors.diffusion.family import Conditions, Family

OBJECTIVES: dict[str, str] = {
    "awm": "actors.policy.objectives.awm:Awm",
}


AdapterName = Literal["trained", "ema", "none"]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of B samples. `behaviour` holds what `measure` found on the worker, each with a leading axis B.

    latents_BCHW float32 clean latents, advantages_B float32, sigmas float32 [S + 1] of the sampler that drew.
    """

    latents_BCHW: Tensor
    conditions: Conditions
    advantages_B: Tensor
    sample_seeds: tuple[int, ...]
    sigmas: Tensor
    behaviour: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise (mean over the batch's samples), and figures for the log: means by name and all ratios."""

    total: Tensor
    terms: dict[str, Tensor]
    ratio: Tensor
    clipped: Tensor


class Policy(Protocol):
    """What an objective may ask of the policy."""

    def velocity(self, latents_BCHW: Tensor, sigma_B: Tensor, conditions: Conditions, adapter: AdapterName) -> Tensor:
        """The velocity under the trained adapter (with gradient), the moving average, or none: the reference."""
        ...


class Objective(Protocol):
    """How samples and their advantages become a gradient."""

    ema_used: bool

    def measure(
        self,
        family: Family,
        latents_BCHW: Tensor,
        conditions: Conditions,
        sample_seeds: tuple[int, ...],
        sigmas: Tensor,
    ) -> dict[str, Tensor]:
        """Figures of the policy that drew the latents, float32 with a leading axis B."""
        ...

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The loss of a micro-batch."""
        ...

    def ema_decay(self, step: int) -> float:
        """How much of the moving average adapter is kept after the step (1-based)."""
        ...


def load_objective(settings: dict) -> Objective:
    """The objective of a recipe's [objective] table."""
    module, name = OBJECTIVES[settings["type"]].split(":")
    return getattr(importlib.import_module(module), name)(
        {key: value for key, value in settings.items() if key != "type"}
    )
